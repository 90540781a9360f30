//! Compiles the XDP program and writes the Rust types of its maps.

use std::env;
use std::path::{Path, PathBuf};

use libbpf_cargo::SkeletonBuilder;

fn main() {
    let source = Path::new("../../xdp-redirect");
    let out =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("redirect.skel.rs");
    let mut arguments = vec!["-I".to_owned(), source.display().to_string()];
    // <asm/types.h> lives in the architecture's own directory on Debian and Ubuntu.
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the architecture");
    let multiarch = format!("/usr/include/{architecture}-linux-gnu");
    if Path::new(&multiarch).is_dir() {
        arguments.extend(["-I".to_owned(), multiarch]);
    }
    SkeletonBuilder::new()
        .source(source.join("redirect.bpf.c"))
        .clang_args(arguments)
        .build_and_generate(out)
        .unwrap_or_else(|error| {
            panic!("compiling the XDP program failed (install clang, libelf-dev, zlib1g-dev and libbpf-dev): {error:#}")
        });
    println!("cargo:rerun-if-changed=../../xdp-redirect");
}
