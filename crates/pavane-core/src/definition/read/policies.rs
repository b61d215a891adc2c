//! Retry and authentication policies.

use super::*;
use crate::definition::{Authentication, Backoff, Retry, Template};
use crate::value::Value;

impl<'n> Reader<'n> {
    /// A retry policy, or the name of one.
    pub(super) fn named_retry(&mut self, node: &'n Node, path: &str) -> Option<Retry> {
        let Some(name) = node.text() else { return self.retry(node, path) };
        match self.uses.retries.get(name).cloned() {
            Some((defined, path)) => self.retry(defined, &path),
            None => {
                let known = self.uses.retries.keys().copied().collect();
                self.unknown_name(node, path, "retries", name, known);
                None
            }
        }
    }

    pub(super) fn retry(&mut self, node: &'n Node, path: &str) -> Option<Retry> {
        self.map(node, path, &["when", "exceptWhen", "delay", "backoff", "limit", "jitter"])?;
        let mut retry = Retry {
            when: node.get("when").and_then(|n| self.expression(n, &child(path, "when"))),
            except_when: node.get("exceptWhen").and_then(|n| self.expression(n, &child(path, "exceptWhen"))),
            delay: node.get("delay").and_then(|n| self.duration(n, &child(path, "delay"))),
            ..Retry::default()
        };
        if let Some(backoff) = node.get("backoff") {
            retry.backoff = self.backoff(backoff, &child(path, "backoff"));
        }
        if let Some(limit) = node.get("limit") {
            self.limit(limit, &child(path, "limit"), &mut retry);
        }
        if let Some(jitter) = node.get("jitter") {
            let path = child(path, "jitter");
            self.map(jitter, &path, &["from", "to"]);
            let mut bound = |name: &str| {
                self.required(jitter, &path, name).and_then(|n| self.fixed_duration(n, &child(&path, name)))
            };
            retry.jitter = bound("from").zip(bound("to"));
        }
        Some(retry)
    }

    fn backoff(&mut self, node: &'n Node, path: &str) -> Backoff {
        const KINDS: [(&str, Backoff); 3] =
            [("constant", Backoff::Constant), ("linear", Backoff::Linear), ("exponential", Backoff::Exponential)];
        let entries = self.map(node, path, &KINDS.map(|(name, _)| name)).unwrap_or_default();
        if entries.len() != 1 {
            self.report("D005", node.at, path, "a backoff is one of constant, linear, exponential".into(), None);
        }
        KINDS.iter().find(|(name, _)| node.get(name).is_some()).map(|(_, backoff)| *backoff).unwrap_or_default()
    }

    fn limit(&mut self, node: &'n Node, path: &str, retry: &mut Retry) {
        if self.map(node, path, &["attempt", "duration"]).is_none() {
            return;
        }
        retry.max_duration = node.get("duration").and_then(|n| self.duration(n, &child(path, "duration")));
        let Some(attempt) = node.get("attempt") else { return };
        let path = child(path, "attempt");
        self.map(attempt, &path, &["count", "duration"]);
        retry.attempt_timeout = attempt.get("duration").and_then(|n| self.duration(n, &child(&path, "duration")));
        if let Some(count) = attempt.get("count") {
            match u32::try_from(count.value().as_i64().unwrap_or(-1)) {
                Ok(count) => retry.max_retries = Some(count),
                Err(_) => self.wrong_type(count, &child(&path, "count"), "a whole number that is not negative"),
            }
        }
    }

    /// An authentication policy, or `use: name`.
    pub(super) fn authentication(&mut self, node: &'n Node, path: &str) -> Option<Authentication> {
        // A bare name is what the standard's texts write in places.
        if let Some(name) = node.text() {
            return self.named_authentication(node, path, name);
        }
        const KINDS: [&str; 6] = ["use", "basic", "bearer", "digest", "oauth2", "oidc"];
        let entries = self.map(node, path, &KINDS)?;
        let [(key, policy)] = entries else {
            self.report("D005", node.at, path, format!("an authentication is one of {}", KINDS.join(", ")), None);
            return None;
        };
        let path = child(path, &key.name);
        match key.name.as_str() {
            "use" => {
                let name = self.text(policy, &path)?;
                self.named_authentication(policy, &path, name)
            }
            "basic" => match policy.get("use") {
                Some(secret) => self.secret("basic", secret, &child(&path, "use")),
                None => {
                    self.map(policy, &path, &["username", "password"])?;
                    Some(Authentication::Basic {
                        username: self.credential(policy, &path, "username")?,
                        password: self.credential(policy, &path, "password")?,
                    })
                }
            },
            "bearer" => match policy.get("use") {
                Some(secret) => self.secret("bearer", secret, &child(&path, "use")),
                // The standard's prose writes the token itself.
                None if policy.text().is_some() => {
                    self.template(policy, &path).map(|token| Authentication::Bearer { token })
                }
                None => {
                    self.map(policy, &path, &["token"])?;
                    self.credential(policy, &path, "token").map(|token| Authentication::Bearer { token })
                }
            },
            scheme => {
                self.later("D910", key.at, &path, &format!("`{scheme}` authentication"));
                None
            }
        }
    }

    fn named_authentication(&mut self, node: &'n Node, path: &str, name: &str) -> Option<Authentication> {
        match self.uses.authentications.get(name).cloned() {
            // A policy that only names another could name itself.
            Some((defined, _)) if defined.get("use").is_some() || defined.text().is_some() => {
                self.report("D014", node.at, path, format!("the authentication `{name}` only refers to another"), None);
                None
            }
            Some((defined, path)) => self.authentication(defined, &path),
            None => {
                let known = self.uses.authentications.keys().copied().collect();
                self.unknown_name(node, path, "authentications", name, known);
                None
            }
        }
    }

    fn credential(&mut self, node: &'n Node, path: &str, name: &str) -> Option<Template> {
        let found = self.required(node, path, name)?;
        match &found.kind {
            Kind::Str(_) => self.template(found, &child(path, name)),
            // `password: 1234` is a text to everybody but YAML.
            Kind::Int(_) | Kind::UInt(_) => Some(Template::Literal(Value::text(found.value().to_json()))),
            _ => {
                self.wrong_type(found, &child(path, name), "a string");
                None
            }
        }
    }

    fn secret(&mut self, scheme: &'static str, node: &'n Node, path: &str) -> Option<Authentication> {
        let name = self.text(node, path)?;
        if !self.uses.secrets.iter().any(|secret| secret == name) {
            let known: Vec<String> = self.uses.secrets.clone();
            self.unknown_name(node, path, "secrets", name, known.iter().map(String::as_str).collect());
            return None;
        }
        Some(Authentication::Secret { scheme, secret: name.to_owned() })
    }
}
