//! Text forms of secrets: a prefix, lower-case base32, a checksum; buffers that are wiped.

use data_encoding::BASE32_NOPAD;
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::format::keys::{context, derive};

/// Length of the checksum in bytes: a typing error passes once in four thousand million.
const CHECKSUM_LEN: usize = 4;

/// `prefix`, then base32 of the payload and its checksum.
pub(super) fn to_text(prefix: &str, payload: &[u8]) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(payload.len() + CHECKSUM_LEN));
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(&checksum(prefix, payload));
    let mut encoded = Zeroizing::new(vec![0u8; BASE32_NOPAD.encode_len(bytes.len())]);
    BASE32_NOPAD.encode_mut(&bytes, &mut encoded);
    let mut text = Zeroizing::new(String::with_capacity(prefix.len() + encoded.len()));
    text.push_str(prefix);
    text.extend(encoded.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    text
}

/// The payload of what [`to_text`] wrote after `prefix`; `what` names it in errors.
pub(super) fn from_text(what: &str, prefix: &str, text: &str) -> Result<Zeroizing<Vec<u8>>> {
    let body = text.strip_prefix(prefix).ok_or_else(|| invalid(what, "its prefix is wrong"))?;
    if body.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(invalid(what, "it is written in lower case"));
    }
    let upper = Zeroizing::new(body.to_ascii_uppercase());
    let length = BASE32_NOPAD.decode_len(upper.len()).map_err(|_| invalid(what, "its length is wrong"))?;
    let mut bytes = Zeroizing::new(vec![0u8; length]);
    BASE32_NOPAD
        .decode_mut(upper.as_bytes(), &mut bytes)
        .map_err(|_| invalid(what, "it has characters that are not base32"))?;
    let split = length.checked_sub(CHECKSUM_LEN).and_then(|at| bytes.split_at_checked(at));
    let (payload, sum) = split.ok_or_else(|| invalid(what, "it is too short"))?;
    if checksum(prefix, payload) != sum {
        return Err(invalid(what, "its checksum does not match; copy it again"));
    }
    let length = payload.len();
    bytes.truncate(length);
    Ok(bytes)
}

/// The error for a text form that is not `what`; the text itself may be a secret and is not shown.
pub(super) fn invalid(what: &str, why: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("this is not {what}: {why}"))
}

/// The error for a text without a known prefix: another version, or something else altogether.
pub(super) fn wrong_prefix(what: &str, text: &str, families: &[&str]) -> Error {
    let rest = families.iter().find_map(|family| text.strip_prefix(family));
    match rest.and_then(|rest| rest.chars().next()) {
        Some(version) if version.is_ascii_digit() => Error::new(
            ErrorKind::Unsupported,
            format!("{what} of version {version} is not known here; upgrade datamesh"),
        ),
        _ => invalid(what, &format!("one begins with {}", families.join(" or "))),
    }
}

fn checksum(prefix: &str, payload: &[u8]) -> [u8; CHECKSUM_LEN] {
    let hash = derive(context::TEXT_CHECKSUM, &[prefix.as_bytes(), payload]);
    let [a, b, c, d, ..] = *hash;
    [a, b, c, d]
}
