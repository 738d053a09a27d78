//! A section of the configuration: a struct whose defaults and documentation stand beside its fields.

/// What is known of one key.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    /// The doc comment, a line each, with the space that follows `///`.
    pub doc: &'static [&'static str],
    /// TOML of a value, for a key that has none by default.
    pub example: Option<&'static str>,
}

/// A struct that knows its documentation.
pub trait Documented {
    const DOC: &'static [&'static str];
    const FIELDS: &'static [Field];
}

/// Defines a section: the struct, `Default`, serde with unknown keys refused, and [`Documented`].
macro_rules! settings {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident {
            $(
                $(#[doc = $field_doc:literal])*
                pub $field:ident : $type:ty = $default:expr $(=> $example:literal)?,
            )*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $( $(#[doc = $field_doc])* pub $field: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl $crate::config::settings::Documented for $name {
            const DOC: &'static [&'static str] = &[$($doc),*];
            const FIELDS: &'static [$crate::config::settings::Field] = &[$(
                $crate::config::settings::Field {
                    name: stringify!($field),
                    doc: &[$($field_doc),*],
                    example: $crate::config::settings::settings!(@example $($example)?),
                },
            )*];
        }
    };
    (@example) => { None };
    (@example $example:literal) => { Some($example) };
}

pub(crate) use settings;
