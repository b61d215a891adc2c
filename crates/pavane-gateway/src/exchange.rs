//! A request on its way through the gateway, with what is known about it.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Request, Response};
use hyper::upgrade::OnUpgrade;

use crate::auth::Caller;
use crate::body::{Body, Whole};
use crate::connection::Slot;
use crate::headers::Client;
use crate::state::State;
use crate::table::Found;
use crate::tls::ClientCertificate;
use crate::watched::Watched;

/// An answer.
pub(crate) type Answered = Response<Body>;

/// A request and its surroundings. Its path is normal. It goes from filter to filter in a box: it is large.
pub(crate) struct Exchange {
    pub request: Request<Body>,
    /// Of its body.
    pub whole: Whole,
    pub found: Found,
    /// The settings that were in force when it came.
    pub state: Arc<State>,
    pub id: HeaderValue,
    pub came: Came,
    /// Set when the client asks to go on as a WebSocket.
    pub upgrade: Option<OnUpgrade>,
    /// Who asks, once a filter knows.
    pub caller: Option<Caller>,
    /// When its head had come.
    pub began: Instant,
    /// Its trace, where spans are taken.
    pub watched: Option<Watched>,
}

/// Where a request came from.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    pub peer: Arc<Client>,
    /// The peer, or whom trusted proxies name.
    pub client: Arc<Client>,
    /// As the client wrote it, with its port.
    pub host: HeaderValue,
    pub tls: bool,
    /// The client's, if it has one that is vouched for.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// Whether the peer is a trusted proxy.
    pub trusted: bool,
    /// The place of its connection among those that may be open.
    pub slot: Arc<Slot>,
}
