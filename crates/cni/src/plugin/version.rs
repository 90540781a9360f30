//! Versions of the specification.

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{CniError, Code};

/// A version of the specification that is spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(
    non_camel_case_types,
    reason = "0.3.1 has no better name than its number"
)]
pub enum Version {
    /// 0.3.1.
    V0_3_1,
    /// 0.4.0: CHECK, prevResult for DEL.
    V0_4_0,
    /// 1.0.0: addresses without their family.
    V1_0_0,
    /// 1.1.0: GC, STATUS, MTUs in results.
    V1_1_0,
}

impl Version {
    /// All, the oldest first.
    pub const ALL: [Version; 4] = [
        Version::V0_3_1,
        Version::V0_4_0,
        Version::V1_0_0,
        Version::V1_1_0,
    ];
    /// The newest.
    pub const NEWEST: Version = Version::V1_1_0;

    /// The version of this number.
    pub fn of(text: &str) -> Option<Version> {
        Version::ALL.into_iter().find(|it| it.text() == text)
    }

    /// Its number.
    pub fn text(self) -> &'static str {
        match self {
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }
}

#[derive(Deserialize)]
struct Asked {
    #[serde(rename = "cniVersion")]
    version: Option<String>,
}

/// The answer to VERSION, which is in the version that it was asked in; old runtimes ask without any words.
pub(super) fn versions(input: &[u8]) -> Result<Value, CniError> {
    let asked = match input.trim_ascii() {
        b"" => None,
        input => {
            let asked = serde_json::from_slice::<Asked>(input);
            asked
                .map_err(|error| CniError::new(Code::Decode, format!("standard input: {error}")))?
                .version
        }
    };
    Ok(json!({
        "cniVersion": asked.unwrap_or_else(|| Version::NEWEST.text().to_owned()),
        "supportedVersions": Version::ALL.map(Version::text),
    }))
}
