//! What a runtime says by CNI_ variables; each value is legal once it is read.

use std::ffi::OsString;
use std::path::PathBuf;

use super::error::{CniError, Code};
use crate::Wired;

/// What the runtime wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Delete,
    Check,
    Collect,
    Status,
    Version,
}

/// The variables.
pub(super) struct Environment<'a> {
    pub(super) variable: &'a dyn Fn(&str) -> Option<OsString>,
}

/// A container that is to have, or has, a wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) wired: Wired,
    pub(super) netns: PathBuf,
    /// The pod as `NAMESPACE/NAME`.
    pub(super) pod: String,
}

/// The file name of a record holds at most 255 bytes, of which an interface's name takes up to 15.
const ID_LIMIT: usize = 200;

impl Environment<'_> {
    pub(super) fn command(&self) -> Result<Command, CniError> {
        match self.required("CNI_COMMAND")?.as_str() {
            "ADD" => Ok(Command::Add),
            "DEL" => Ok(Command::Delete),
            "CHECK" => Ok(Command::Check),
            "GC" => Ok(Command::Collect),
            "STATUS" => Ok(Command::Status),
            "VERSION" => Ok(Command::Version),
            other => Err(wrong(format!(
                "CNI_COMMAND: {other:?} is no command: give ADD, DEL, CHECK, GC, STATUS or VERSION"
            ))),
        }
    }

    pub(super) fn container_to_add(&self) -> Result<Container, CniError> {
        Ok(Container {
            wired: self.wired()?,
            netns: self.required("CNI_NETNS")?.into(),
            pod: self.pod()?,
        })
    }

    pub(super) fn wired(&self) -> Result<Wired, CniError> {
        let container = self.required("CNI_CONTAINERID")?;
        if !is_container_id(&container) {
            return Err(wrong(format!(
                "CNI_CONTAINERID: {container:?} is no container id: give up to {ID_LIMIT} letters, digits, `_`, `.` and `-`, the first a letter or digit"
            )));
        }
        let device = self.required("CNI_IFNAME")?;
        if !is_device_name(&device) {
            return Err(wrong(format!(
                "CNI_IFNAME: {device:?} is no interface name: give 1 to 15 characters without spaces, `/` and `:`"
            )));
        }
        Ok(Wired { container, device })
    }

    /// The pod that the container is, by the arguments that Kubernetes runtimes give; a container outside of
    /// Kubernetes counts as a pod of the namespace `default` with its id as its name.
    pub(super) fn pod(&self) -> Result<String, CniError> {
        let arguments = self.optional("CNI_ARGS")?.unwrap_or_default();
        let mut namespace = "default".to_owned();
        let mut name = None;
        for argument in arguments.split(';').filter(|it| !it.is_empty()) {
            let Some((key, value)) = argument.split_once('=') else {
                return Err(wrong(format!(
                    "CNI_ARGS: {argument:?} is no argument: give KEY=VALUE;KEY=VALUE"
                )));
            };
            // Some give what they have no value for as nothing.
            if !key.starts_with("K8S_POD_NAME") || value.is_empty() {
                continue;
            }
            if !is_object_name(value) {
                return Err(wrong(format!(
                    "CNI_ARGS: {key}: {value:?} is no object's name: give letters, digits, `-`, `_` and `.`"
                )));
            }
            match key {
                "K8S_POD_NAMESPACE" => namespace = value.to_owned(),
                "K8S_POD_NAME" => name = Some(value.to_owned()),
                _ => (),
            }
        }
        let name = match name {
            Some(name) => name,
            None => self.wired()?.container,
        };
        Ok(format!("{namespace}/{name}"))
    }

    fn required(&self, name: &str) -> Result<String, CniError> {
        match self.optional(name)? {
            Some(value) if !value.is_empty() => Ok(value),
            Some(_) | None => Err(wrong(format!(
                "{name} is not set: podway-cni is called by container runtimes, which set it"
            ))),
        }
    }

    fn optional(&self, name: &str) -> Result<Option<String>, CniError> {
        let value = (self.variable)(name).map(OsString::into_string).transpose();
        value.map_err(|bytes| wrong(format!("{name}: {bytes:?} is not UTF-8")))
    }
}

fn wrong(text: String) -> CniError {
    CniError::new(Code::Environment, text)
}

pub(super) fn is_container_id(text: &str) -> bool {
    let starts_well = text
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    starts_well && text.len() <= ID_LIMIT && text.bytes().all(legal)
}

pub(super) fn is_device_name(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_graphic() && !b"/:@".contains(&byte);
    (1..=15).contains(&text.len()) && ![".", ".."].contains(&text) && text.bytes().all(legal)
}

/// Runtimes other than Kubernetes' name containers more freely.
fn is_object_name(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=253).contains(&text.len()) && text.bytes().all(legal)
}
