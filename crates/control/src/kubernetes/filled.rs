//! Objects with every field that their type has, which the type itself tells: nobody has to remember one.

use serde::Serialize;
use serde::de::value::{BorrowedStrDeserializer, Error, MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

use super::Kind;

/// An object of a kind in which nothing is left out.
pub(super) fn filled<T: DeserializeOwned + Serialize>(kind: Kind, version: &'static str) -> Value {
    let object = T::deserialize(Filler {
        kind,
        version,
        field: "",
    });
    serde_json::to_value(object.expect("a filled object")).expect("JSON")
}

/// Gives whatever a field's type asks for.
#[derive(Clone, Copy)]
struct Filler {
    kind: Kind,
    version: &'static str,
    field: &'static str,
}

impl Filler {
    fn text(self) -> String {
        match (self.field, self.kind) {
            ("apiVersion", _) => self.version.to_owned(),
            ("kind", kind) => kind.to_string(),
            ("phase", _) => "Running".to_owned(),
            ("protocol", _) => "TCP".to_owned(),
            ("name", _) => "filled".to_owned(),
            // An init container of this policy is a sidecar, whose ports have names.
            ("restartPolicy", _) => "Always".to_owned(),
            ("addressType", _) => "IPv4".to_owned(),
            ("type", Kind::Node) => "InternalIP".to_owned(),
            ("type", Kind::Service) => "LoadBalancer".to_owned(),
            ("podCIDR" | "podCIDRs" | "cidrs" | "loadBalancerSourceRanges", _) => {
                "10.0.0.0/24".to_owned()
            }
            ("Time" | "MicroTime", _) => "2026-01-01T00:00:00Z".to_owned(),
            _ => "10.0.0.9".to_owned(),
        }
    }
}

impl IntoDeserializer<'static, Error> for Filler {
    type Deserializer = Filler;

    fn into_deserializer(self) -> Filler {
        self
    }
}

impl Deserializer<'static> for Filler {
    type Error = Error;

    fn deserialize_any<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i64(1)
    }

    fn deserialize_bool<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        // A pod of the host's network has no ports of its own to tell of.
        visitor.visit_bool(self.field != "hostNetwork")
    }

    fn deserialize_str<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.text())
    }

    fn deserialize_string<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.text())
    }

    fn deserialize_option<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'static>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let field = match name {
            "Time" | "MicroTime" => name,
            _ => self.field,
        };
        visitor.visit_newtype_struct(Filler { field, ..self })
    }

    fn deserialize_seq<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(SeqDeserializer::new([self].into_iter()))
    }

    fn deserialize_map<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        let key = match (self.kind, self.field) {
            // Whose slice it is; one that doesn't say is nobody's.
            (Kind::EndpointSlice, "labels") => "kubernetes.io/service-name",
            _ => "filled",
        };
        visitor.visit_map(MapDeserializer::new([(key, self)].into_iter()))
    }

    fn deserialize_struct<V: Visitor<'static>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let fields = fields.iter().map(|field| {
            let value = Filler { field, ..self };
            (BorrowedStrDeserializer::new(field), value)
        });
        visitor.visit_map(MapDeserializer::new(fields))
    }

    forward_to_deserialize_any! {
        <V: Visitor<'static>>
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        tuple tuple_struct enum identifier ignored_any
    }
}
