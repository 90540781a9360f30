//! Compiles the traffic source's XDP programs.

use std::env;
use std::path::{Path, PathBuf};

use libbpf_cargo::SkeletonBuilder;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut arguments = Vec::new();
    // <asm/types.h> lives in the architecture's own directory on Debian and Ubuntu.
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the architecture");
    let multiarch = format!("/usr/include/{architecture}-linux-gnu");
    if Path::new(&multiarch).is_dir() {
        arguments.extend(["-I".to_owned(), multiarch]);
    }
    SkeletonBuilder::new()
        .source("source.bpf.c")
        .obj(out.join("source.bpf.o"))
        .clang_args(arguments)
        .build()
        .unwrap_or_else(|error| {
            panic!("compiling source.bpf.c failed (install clang, libelf-dev, zlib1g-dev and libbpf-dev): {error:#}")
        });
    println!("cargo:rerun-if-changed=source.bpf.c");
}
