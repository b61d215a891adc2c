//! Identifiers: of instances, of what a step derives from them, and the keys that make a service call repeatable.

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The namespace of every UUIDv5 that Pavane derives.
const NAMESPACE: Uuid = Uuid::from_u128(0x5f0c_61de_3a1f_4c5b_8e0d_70a1_be11_57ed);

/// A UUIDv5 over `parts`: equal parts, equal id, on every machine and in every replay.
pub fn derived(parts: &[&str]) -> String {
    Uuid::new_v5(&NAMESPACE, parts.join("\u{1f}").as_bytes()).to_string()
}

/// The `Idempotency-Key` of one epoch of one task run: `sha256(instance / task reference / loop indices / epoch)`.
pub fn idempotency_key(instance: &str, reference: &str, indices: &[u32], epoch: u32) -> String {
    let indices = indices.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    hex(&Sha256::digest([instance, reference, &indices, &epoch.to_string()].join("\u{1f}")))
}

/// The digest by which a definition or program is known: lower-case hex SHA-256.
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(*byte));
    }
    text
}
