//! Names: of nodes, objects, extents, shards and operations, and their text forms.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;

use crate::error::{Error, ErrorKind};

/// Length of every hash-made name, in bytes.
pub const ID_LEN: usize = 32;

/// Lower-case RFC 4648 base32 without padding: the text form of every name.
pub(crate) fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_lowercase()
}

/// Reads what [`base32`] wrote; upper case is refused so that each name has one text form.
pub(crate) fn from_base32(text: &str) -> Option<Vec<u8>> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    BASE32_NOPAD.decode(text.to_uppercase().as_bytes()).ok()
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident($len:expr), $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// The name made of these bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes of the name.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The first ten characters of the text form, for logs and tables.
            pub fn fmt_short(&self) -> String {
                self.to_string().chars().take(10).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&base32(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.fmt_short())
            }
        }

        impl FromStr for $name {
            type Err = Error;

            /// Reads the base32 text form.
            ///
            /// # Errors
            /// [`ErrorKind::InvalidInput`] for anything that `Display` would not print.
            fn from_str(text: &str) -> Result<Self, Error> {
                from_base32(text)
                    .and_then(|bytes| <[u8; $len]>::try_from(bytes).ok())
                    .map(Self)
                    .ok_or_else(|| {
                        Error::new(
                            ErrorKind::InvalidInput,
                            format!(
                                concat!($what, " is {} characters of lower-case base32, got {}"),
                                ($len * 8usize).div_ceil(5),
                                text.chars().count()
                            ),
                        )
                    })
            }
        }
    )*};
}

names! {
    /// Names a node: its Ed25519 public key.
    NodeId(32), "a node id";
    /// Names an object: the BLAKE3 hash of its manifest.
    ObjectId(32), "an object id";
    /// Names an extent: the BLAKE3 hash of its layout.
    ExtentId(32), "an extent id";
    /// Names a shard: the BLAKE3 hash of its bytes.
    ShardId(32), "a shard id";
    /// Names one operation of one client, so that a repeated request is recognised.
    OperationId(16), "an operation id";
}

impl ShardId {
    /// The name of a shard with these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl ExtentId {
    /// The name of an extent with this encoded layout.
    pub fn of(layout: &[u8]) -> Self {
        Self(*blake3::hash(layout).as_bytes())
    }
}

impl ObjectId {
    /// The name of an object with this encoded manifest.
    pub fn of(manifest: &[u8]) -> Self {
        Self(*blake3::hash(manifest).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_is_unique() {
        let id = ShardId::of(b"shard");
        let text = id.to_string();
        assert_eq!(text.len(), 52);
        assert_eq!(text.parse::<ShardId>().ok(), Some(id));
        assert!(text.to_uppercase().parse::<ShardId>().is_err());
        assert!(text.get(1..).unwrap_or_default().parse::<ShardId>().is_err());
    }
}
