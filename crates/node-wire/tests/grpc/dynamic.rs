//! gRPC by another implementation: tonic for the transport, prost for the messages, which it knows
//! from the descriptors only. What it sends and reads is written as JSON.

use std::net::SocketAddr;

use prost::Message as _;
use prost::bytes::{Buf as _, BufMut as _};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use serde_json::Value;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::harness::TOKEN;

pub(crate) fn pool() -> DescriptorPool {
    let set = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    DescriptorPool::decode(set.as_slice()).unwrap()
}

/// The method at a path such as `/SandboxService/Create`.
pub(crate) fn method(path: &str) -> MethodDescriptor {
    let (service, name) = path.trim_start_matches('/').split_once('/').unwrap();
    let service = pool().get_service_by_name(service).unwrap();
    service.methods().find(|method| method.name() == name).unwrap()
}

pub(crate) fn message(kind: MessageDescriptor, json: &Value) -> DynamicMessage {
    DynamicMessage::deserialize(kind, json).unwrap()
}

pub(crate) fn json(message: &DynamicMessage) -> Value {
    serde_json::to_value(message).unwrap()
}

/// Encodes what it is given, decodes `output`.
#[derive(Debug, Clone)]
pub(crate) struct Dynamic {
    pub(crate) output: MessageDescriptor,
}

impl Codec for Dynamic {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item.encode_to_vec());
        Ok(())
    }
}

impl Decoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        let message = DynamicMessage::decode(self.output.clone(), bytes);
        message.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// A tonic client of a node.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    channel: Channel,
    token: Option<String>,
    timeout: Option<String>,
}

impl Peer {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Self { channel, token: Some(format!("Bearer {TOKEN}")), timeout: None }
    }

    /// With another `authorization`, or none.
    pub(crate) fn showing(&self, token: Option<&str>) -> Self {
        Self { token: token.map(str::to_owned), ..self.clone() }
    }

    /// With a deadline that only the server keeps.
    pub(crate) fn with_timeout(&self, timeout: String) -> Self {
        Self { timeout: Some(timeout), ..self.clone() }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.parse().unwrap());
        }
        if let Some(timeout) = &self.timeout {
            request.metadata_mut().insert("grpc-timeout", timeout.parse().unwrap());
        }
        request
    }

    pub(crate) async fn call(&self, path: &str, json: Value) -> Result<Value, Status> {
        self.send(path, message(method(path).input(), &json)).await
    }

    pub(crate) async fn send(&self, path: &str, message: DynamicMessage) -> Result<Value, Status> {
        self.send_to(path, path, message).await
    }

    /// To `path`, expecting the answer of `known`.
    pub(crate) async fn send_to(
        &self,
        path: &str,
        known: &str,
        message: DynamicMessage,
    ) -> Result<Value, Status> {
        let codec = Dynamic { output: method(known).output() };
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::try_from(path).unwrap();
        let answer = grpc.unary(self.request(message), path, codec).await?;
        Ok(self::json(&answer.into_inner()))
    }

    pub(crate) async fn stream(
        &self,
        path: &str,
        json: Value,
    ) -> Result<Streaming<DynamicMessage>, Status> {
        let message = message(method(path).input(), &json);
        let codec = Dynamic { output: method(path).output() };
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::try_from(path).unwrap();
        Ok(grpc.server_streaming(self.request(message), path, codec).await?.into_inner())
    }

    /// The error of a call that is refused.
    pub(crate) async fn refused(&self, path: &str, json: Value) -> Status {
        self.call(path, json).await.expect_err("the call should be refused")
    }
}
