//! The messages of `proto/interop.proto` that Rust tests write or read. Fields
//! that no test uses are left out; protobuf skips them.

#![allow(missing_docs, reason = "the .proto file documents the fields")]

use prost::Message;

/// See the `.proto` file, as for all of these.
#[derive(Clone, PartialEq, Message)]
pub struct SimpleRequest {
    #[prost(uint32, tag = "2")]
    pub response_size: u32,
}

/// See the `.proto` file.
#[derive(Clone, PartialEq, Message)]
pub struct SimpleResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub payload: Vec<u8>,
}

/// See the `.proto` file.
#[derive(Clone, PartialEq, Message)]
pub struct OutputRequest {
    #[prost(uint32, repeated, tag = "1")]
    pub sizes: Vec<u32>,
    #[prost(uint32, tag = "2")]
    pub interval_ms: u32,
}

/// See the `.proto` file.
#[derive(Clone, PartialEq, Message)]
pub struct FailRequest {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(message, repeated, tag = "3")]
    pub trailers: Vec<Header>,
}

/// See the `.proto` file.
#[derive(Clone, PartialEq, Message)]
pub struct Header {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// See the `.proto` file.
#[derive(Clone, PartialEq, Message)]
pub struct Seen {
    #[prost(message, repeated, tag = "1")]
    pub metadata: Vec<Header>,
    #[prost(string, tag = "3")]
    pub peer_name: String,
}

impl Seen {
    /// The values of a header, in the order in which they came.
    pub fn values(&self, name: &str) -> Vec<String> {
        let values = self.metadata.iter().filter(|header| header.name == name);
        values
            .map(|header| String::from_utf8_lossy(&header.value).into_owned())
            .collect()
    }
}
