//! One door for a whole listener: keys and passwords, without routes and scopes. The HTTP API has it.

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};

use super::secret::{Keys, Passwords};
use super::{API_KEY, Unknown, basic, credentials, single};
use crate::problem::Problem;
use crate::settings::{KeySettings, PasswordSettings};
use crate::units::{Fault, Located};

/// Who may pass: whoever has one of the keys (`X-Api-Key: KEY`, or `Authorization: Bearer KEY`), or a name and its password
/// (Basic).
#[derive(Debug)]
pub struct Door {
    keys: Keys,
    passwords: Passwords,
}

impl Door {
    /// The door of a listener whose settings stand at `place`; none when nobody is known there.
    ///
    /// # Errors
    /// Every fault of the settings.
    pub fn new(
        place: &str,
        keys: &[Located<KeySettings>],
        basic: &[Located<PasswordSettings>],
    ) -> Result<Option<Door>, Vec<Fault>> {
        let mut faults = Vec::new();
        let scoped = keys.iter().map(|k| (k.line, k.column, &k.value.name, &k.value.scopes));
        let scoped = scoped.chain(basic.iter().map(|b| (b.line, b.column, &b.value.name, &b.value.scopes)));
        for (line, column, name, _) in scoped.filter(|(.., scopes)| !scopes.is_empty()) {
            let message = format!("{place}: {name}: `scopes` say nothing here: who may pass may do everything");
            faults.push(Fault { line, column, message });
        }
        let door = Door {
            keys: Keys::new(place, keys, &mut faults),
            passwords: Passwords::new(place, basic, None, &mut faults),
        };
        let anybody = !door.keys.is_empty() || !door.passwords.is_empty();
        if faults.is_empty() { Ok(anybody.then_some(door)) } else { Err(faults) }
    }

    /// Lets a request pass; gives who it is.
    ///
    /// # Errors
    /// 401 with `WWW-Authenticate`; 503 when too many passwords are being computed to say.
    pub async fn admit(&self, headers: &HeaderMap) -> Result<String, Problem> {
        let key = single(headers, API_KEY).or_else(|_| credentials(headers, "bearer"));
        let known = match key {
            Ok(key) => self.keys.find(key.as_bytes()).ok_or(Unknown::Wrong),
            Err(_) => match basic(headers) {
                Ok((name, password)) => self.passwords.find(&name, &password).await,
                Err(unknown) => Err(unknown),
            },
        };
        match known {
            Ok(caller) => Ok(caller.name),
            Err(Unknown::Unavailable) => {
                Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "authentication_unavailable").retry_after(5))
            }
            Err(Unknown::NotTried | Unknown::Wrong) => Err(self.challenge()),
        }
    }

    fn challenge(&self) -> Problem {
        let detail = "show a key (`X-Api-Key`, or `Authorization: Bearer`) or a name and its password (Basic); \
                      `pavane` takes them from PAVANE_TOKEN";
        let ways = [
            (!self.keys.is_empty(), "Bearer realm=\"pavane\""),
            (!self.passwords.is_empty(), "Basic realm=\"pavane\", charset=\"UTF-8\""),
        ];
        let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated").detail(detail);
        ways.into_iter().filter(|(way, _)| *way).fold(problem, |problem, (_, challenge)| {
            problem.header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
        })
    }
}
