//! Requests to a hub.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use pavane_bus::wire::Definition;
use pavane_runtime::{Home, Reading};
use pavane_store::Deployed;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::client::{Server, problem};

/// The longest answer: what the hub waits for receivers of messages, and some more.
const TIMEOUT: Duration = Duration::from_secs(45);

/// How it stands between a participant and its hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is attached; the session.
    Attached(String),
    /// It is not, for this reason.
    Away(String),
}

/// Why the hub did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nobody answered, or not in time, or it is no hub.
    Unreachable(String),
    /// It refused; with the code of the problem.
    Refused(String, String),
}

impl Fault {
    /// For people.
    pub fn why(&self) -> &str {
        match self {
            Fault::Unreachable(why) | Fault::Refused(_, why) => why,
        }
    }
}

/// Who asks a hub, for one participant.
#[derive(Debug)]
pub struct Caller {
    hub: Server,
    url: String,
    authorization: String,
    standing: watch::Sender<Standing>,
}

impl Caller {
    /// Asks the hub at a base URL, with the token that it wants.
    pub fn new(url: &str, token: Option<&str>) -> Caller {
        Caller {
            hub: Server::new(url),
            url: url.to_owned(),
            authorization: token.map(|token| format!("Bearer {token}")).unwrap_or_default(),
            standing: watch::Sender::new(Standing::Away(format!("the hub at {url} was not asked yet"))),
        }
    }

    /// How it stands now.
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// The base URL of the hub.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn set(&self, standing: Standing) {
        self.standing.send_replace(standing);
    }

    /// The session, while it is attached.
    pub(super) fn session(&self) -> Result<String, String> {
        match &*self.standing.borrow() {
            Standing::Attached(session) => Ok(session.clone()),
            Standing::Away(why) => Err(why.clone()),
        }
    }

    /// Posts what has an answer.
    pub(super) async fn post<Q: Serialize, A: DeserializeOwned>(&self, path: &str, body: &Q) -> Result<A, Fault> {
        let bytes = self.send(Method::POST, path, write(body)).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.strange(path, &error))
    }

    /// Posts what has none.
    pub(super) async fn tell<Q: Serialize>(&self, path: &str, body: &Q) -> Result<(), Fault> {
        self.send(Method::POST, path, write(body)).await.map(drop)
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Fault> {
        let mut headers = vec![("content-type", "application/json")];
        if !self.authorization.is_empty() {
            headers.push(("authorization", &self.authorization));
        }
        let asked = tokio::time::timeout(TIMEOUT, self.hub.bytes(method, path, &headers, body)).await;
        let answer = match asked {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => return Err(Fault::Unreachable(format!("the hub cannot be reached: {why}"))),
            Err(_) => return Err(Fault::Unreachable(format!("the hub at {} did not answer in time", self.url))),
        };
        if answer.0.is_success() {
            return Ok(answer.1);
        }
        let answer = crate::client::Answer::read(answer.0, http::HeaderMap::new(), &answer.1);
        let code = answer.body["code"].as_str().unwrap_or_default().to_owned();
        Err(match answer.status {
            // A proxy between the two says so when the hub is away.
            status if status.is_server_error() || code.is_empty() => Fault::Unreachable(problem(&answer)),
            _ => Fault::Refused(code, answer.body["detail"].as_str().unwrap_or_default().to_owned()),
        })
    }

    fn strange(&self, path: &str, error: &serde_json::Error) -> Fault {
        Fault::Unreachable(format!("the answer of {}{path} cannot be read ({error}): is a hub there?", self.url))
    }
}

/// Where an engine asks for definitions.
#[derive(Debug)]
pub(super) struct AtHub(pub std::sync::Arc<Caller>);

impl Home for AtHub {
    fn definition(&self, digest: &str) -> Reading<Result<Option<Deployed>, String>> {
        let (caller, path) = (self.0.clone(), format!("/bus/v1/definitions/{digest}"));
        Box::pin(async move {
            match caller.send(Method::GET, &path, Bytes::new()).await {
                Ok(bytes) => {
                    let definition: Definition = serde_json::from_slice(&bytes)
                        .map_err(|error| caller.strange(&path, &error).why().to_owned())?;
                    Ok(Some(definition.into()))
                }
                Err(Fault::Refused(code, _)) if code == "unknown_definition" => Ok(None),
                Err(fault) => Err(fault.why().to_owned()),
            }
        })
    }
}

fn write<T: Serialize>(body: &T) -> Bytes {
    // Plain data: writing it to memory cannot fail.
    serde_json::to_vec(body).unwrap_or_default().into()
}
