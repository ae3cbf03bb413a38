//! Structs as bytes, into maps and out of them.

use std::path::Path;

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::MapError;
use super::labels::Row;
use crate::programs::skeleton::types;

/// The plain structs that are read and written as bytes.
///
/// # Safety
///
/// Without padding, and any bytes are a value.
#[expect(unsafe_code, reason = "a promise about layout")]
pub(crate) unsafe trait Plain: Copy + Default {}

macro_rules! plain {
    ($($type:ty),*) => {$(
        // SAFETY: integers and arrays of them, laid out by the C compiler without padding.
        #[expect(unsafe_code, reason = "a promise about layout")]
        unsafe impl Plain for $type {}
    )*};
}
plain!(
    types::settings,
    types::owner,
    types::class,
    types::interest,
    types::kind,
    types::verdict,
    types::label,
    Row,
    types::relabel,
    types::sweep,
    types::tuple,
    types::prefix,
    types::approval,
    u32,
    u64,
    [u32; 4]
);

#[expect(unsafe_code, reason = "reads a struct as bytes")]
pub(crate) fn bytes<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: Plain has no padding, so every byte is initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

#[expect(unsafe_code, reason = "reads bytes as a struct")]
pub(crate) fn value<T: Plain>(bytes: &[u8]) -> Option<T> {
    // SAFETY: any bytes are a value of a Plain type, and the length fits.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

pub(crate) fn open(pins: &Path, map: &'static str) -> Result<MapHandle, MapError> {
    MapHandle::from_pinned_path(pins.join(map)).map_err(|source| MapError {
        action: "open",
        map,
        source,
    })
}

pub(crate) fn get<K: Plain, V: Plain>(
    handle: &MapHandle,
    map: &'static str,
    key: &K,
) -> Result<Option<V>, MapError> {
    get_bytes(handle, map, bytes(key))
}

pub(super) fn get_bytes<V: Plain>(
    handle: &MapHandle,
    map: &'static str,
    key: &[u8],
) -> Result<Option<V>, MapError> {
    match handle.lookup(key, MapFlags::ANY) {
        Ok(found) => Ok(found.as_deref().and_then(value)),
        Err(source) => Err(MapError {
            action: "read",
            map,
            source,
        }),
    }
}

pub(crate) fn put<K: Plain>(
    handle: &MapHandle,
    map: &'static str,
    key: &K,
    value: &[u8],
) -> Result<(), MapError> {
    put_bytes(handle, map, bytes(key), value)
}

pub(super) fn put_bytes(
    handle: &MapHandle,
    map: &'static str,
    key: &[u8],
    value: &[u8],
) -> Result<(), MapError> {
    handle
        .update(key, value, MapFlags::ANY)
        .map_err(|source| MapError {
            action: "write",
            map,
            source,
        })
}

pub(crate) fn delete<K: Plain>(
    handle: &MapHandle,
    map: &'static str,
    key: &K,
) -> Result<(), MapError> {
    match handle.delete(bytes(key)) {
        Err(source) if source.kind() != libbpf_rs::ErrorKind::NotFound => Err(MapError {
            action: "delete from",
            map,
            source,
        }),
        _ => Ok(()),
    }
}
