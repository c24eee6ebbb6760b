//! Text formats of configs: a whole number with a unit, and the conversion of a type from and
//! to its text.

/// Reads a whole number with a unit. `None` if the text has another form, `Some(None)` if the
/// value overflows.
pub(super) fn parse_with_unit(text: &str, units: &[(&str, u64)]) -> Option<Option<u64>> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    Some(number.checked_mul(*scale))
}

/// Returns the number and the unit of a value: the largest unit that divides it. `units` is
/// in ascending order and starts with 1.
pub(super) fn largest_unit<'a>(value: u64, units: &[(&'a str, u64)]) -> (u64, &'a str) {
    let mut descending = units.iter().rev();
    let (unit, scale) = descending
        .find(|(_, scale)| value.is_multiple_of(*scale))
        .expect("the first unit divides every value");
    (value / *scale, *unit)
}

/// Implements `Deserialize`, `Serialize` and `JsonSchema` for a type with a text format: read
/// by a function, written by `Display`, a string with a pattern in JSON Schema.
macro_rules! text_format {
    ($type:ident, $name:literal, $pattern:literal, $read:path) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                $read(&text).map(Self).map_err(serde::de::Error::custom)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}

pub(super) use text_format;
