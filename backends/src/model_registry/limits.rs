//! How much one request may bring: the bounds of every text, list and map, in bytes and entries.
//!
//! What goes beyond is refused with INVALID_ARGUMENT and the name of the field. How much the
//! registry holds as a whole is [`RegistrySettings`](super::RegistrySettings)' concern.

/// Longest model id, in bytes. Its characters are `A-Z a-z 0-9 . _ : / -`.
pub const ID_BYTES: usize = 128;
/// Longest name of a model, a provider or an organisation, in bytes.
pub const NAME_BYTES: usize = 256;
/// Longest version, in bytes.
pub const VERSION_BYTES: usize = 128;
/// Longest connector type, in bytes.
pub const CONNECTOR_TYPE_BYTES: usize = 64;
/// Longest endpoint URL, in bytes.
pub const ENDPOINT_URL_BYTES: usize = 2048;
/// Longest API key, in bytes.
pub const API_KEY_BYTES: usize = 8192;
/// Longest reason for a change of status, in bytes.
pub const REASON_BYTES: usize = 1024;

/// Most entries of a list: tags, additional capabilities, and the lists of a filter.
pub const LIST_ENTRIES: usize = 32;
/// Longest entry of a list, in bytes. An entry is never empty.
pub const LIST_ENTRY_BYTES: usize = 128;
/// Most entries of a map; the entry that the registry itself adds is not counted.
pub const MAP_ENTRIES: usize = 64;
/// Longest key of a map, in bytes. A key is never empty.
pub const MAP_KEY_BYTES: usize = 128;
/// Longest value of a map, in bytes.
pub const MAP_VALUE_BYTES: usize = 1024;

/// Longest time limit that a connector may be given, in milliseconds.
pub const CONNECTOR_TIMEOUT_MS: u32 = 600_000;
/// Most retries that a connector may be given.
pub const CONNECTOR_RETRIES: u32 = 100;
/// Longest wait for one health check, in milliseconds.
pub const HEALTH_TIMEOUT_MS: u32 = 30_000;

/// Most faults that one answer names. They travel in a header, and common clients take 8 KiB.
pub const FAULTS_NAMED: usize = 10;
