//! Takes a lab down: processes first, then namespaces, then files; each step finds for itself what is there.

use std::fs;
use std::io;

use podway_host::Namespace;

use crate::state::State;
use crate::{Error, Place, lent, process};

pub(crate) fn down(place: &Place) -> Result<(), Error> {
    let names = place.namespaces();
    // One that can't be opened is a mount point whose maker died before the mount.
    let namespaces: Vec<_> = names
        .iter()
        .filter_map(|name| Namespace::named(name).ok())
        .collect();
    let recorded = State::load(place)
        .map(|state| state.processes())
        .unwrap_or_default();
    process::end(&recorded, &namespaces)?;
    namespaces.iter().try_for_each(lent::give_back)?;
    drop(namespaces);

    for name in &names {
        Namespace::remove(name)?;
    }
    match fs::remove_dir_all(place.directory()) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::File {
            path: place.directory().to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
