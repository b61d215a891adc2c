//! Policies that a task or `use` may hold: authentication, retry, timeouts, errors to raise, and URIs.

use super::node::Kind;
use super::reader::{Place, Reader, suggestion};
use super::templates::whole;
use super::{Authentication, Backoff, DurationSource, Endpoint, ErrorTemplate, Retry, UriSource, codes};

const SCHEMES: [&str; 5] = ["basic", "bearer", "digest", "oauth2", "oidc"];

impl Reader<'_> {
    /// A timeout: `after`, or a name of `use.timeouts`.
    pub fn timeout(&mut self, place: &Place<'_>) -> Option<DurationSource> {
        if place.text().is_some() {
            return self.named(place, "timeouts", codes::UNKNOWN_TIMEOUT, |used| &used.timeouts);
        }
        let fields = self.fields(place, "a timeout", &["after"])?;
        let after = self.required(&fields, "a timeout", "after")?;
        self.duration(&after, "`after`")
    }

    /// A retry policy, or a name of `use.retries`.
    pub fn retry(&mut self, place: &Place<'_>) -> Option<Retry> {
        if place.text().is_some() {
            return self.named(place, "retries", codes::UNKNOWN_RETRY, |used| &used.retries);
        }
        let known = ["when", "exceptWhen", "delay", "backoff", "limit", "jitter"];
        let fields = self.fields(place, "a retry policy", &known)?;
        let mut retry = Retry {
            when: fields.get("when").and_then(|p| self.expression(&p, "`when`")),
            except_when: fields.get("exceptWhen").and_then(|p| self.expression(&p, "`exceptWhen`")),
            delay: fields.get("delay").and_then(|p| self.duration(&p, "`delay`")),
            backoff: fields.get("backoff").and_then(|p| self.backoff(&p)).unwrap_or_default(),
            ..Retry::default()
        };
        if let Some(limit) = fields.get("limit").and_then(|p| self.fields(&p, "`limit`", &["attempt", "duration"])) {
            retry.max_duration = limit.get("duration").and_then(|p| self.duration(&p, "`duration`"));
            if let Some(attempt) =
                limit.get("attempt").and_then(|p| self.fields(&p, "`attempt`", &["count", "duration"]))
            {
                retry.attempt_timeout = attempt.get("duration").and_then(|p| self.duration(&p, "`duration`"));
                retry.max_retries = attempt.get("count").and_then(|p| self.count(&p));
            }
        }
        if let Some(jitter) = fields.get("jitter").and_then(|p| self.fields(&p, "`jitter`", &["from", "to"])) {
            let from = self.required(&jitter, "`jitter`", "from").and_then(|p| self.fixed_duration(&p, "`from`"));
            let to = self.required(&jitter, "`jitter`", "to").and_then(|p| self.fixed_duration(&p, "`to`"));
            retry.jitter = from.zip(to);
            if let Some((from, to)) = retry.jitter
                && (from.months, from.millis) > (to.months, to.millis)
            {
                self.report_at(codes::DURATION, &jitter.place, "`jitter.from` is longer than `jitter.to`")
                    .help("write the shorter duration first");
            }
        }
        Some(retry)
    }

    /// An error to raise, or a name of `use.errors`.
    pub fn error(&mut self, place: &Place<'_>) -> Option<ErrorTemplate> {
        if place.text().is_some() {
            return self.named(place, "errors", codes::UNKNOWN_ERROR, |used| &used.errors);
        }
        let fields = self.fields(place, "an error", &["type", "status", "title", "detail", "instance"])?;
        let type_ = self.required(&fields, "an error", "type");
        let status = self.required(&fields, "an error", "status");
        if let Some(status) = &status {
            self.status(status);
        }
        let text = |reader: &mut Self, key: &str| {
            fields.get(key).and_then(|p| reader.string_template(&p, &format!("`{key}`")))
        };
        let (title, detail, instance) = (text(self, "title"), text(self, "detail"), text(self, "instance"));
        Some(ErrorTemplate {
            type_: type_.and_then(|p| self.string_template(&p, "`type`"))?,
            status: status.and_then(|p| self.template(&p))?,
            title,
            detail,
            instance,
        })
    }

    /// A URI with its authentication: a text, or `{ uri, authentication }`.
    pub fn endpoint(&mut self, place: &Place<'_>) -> Option<Endpoint> {
        if !matches!(place.node.kind, Kind::Map(_)) {
            return Some(Endpoint { uri: self.uri(place)?, authentication: None });
        }
        let fields = self.fields(place, "an endpoint", &["uri", "authentication"])?;
        let authentication = fields.get("authentication").and_then(|p| self.authentication(&p));
        let uri = self.required(&fields, "an endpoint", "uri")?;
        Some(Endpoint { uri: self.uri(&uri)?, authentication })
    }

    /// An external resource: `{ name, endpoint }`.
    pub fn resource(&mut self, place: &Place<'_>, what: &str) -> Option<Endpoint> {
        let fields = self.fields(place, what, &["name", "endpoint"])?;
        let endpoint = self.required(&fields, what, "endpoint")?;
        self.endpoint(&endpoint)
    }

    /// A policy, `{ use: name }`, or the name alone.
    pub fn authentication(&mut self, place: &Place<'_>) -> Option<Authentication> {
        let by_name = if place.text().is_some() { Some(place.clone()) } else { place.get("use") };
        if let Some(name) = by_name {
            if place.text().is_none() {
                self.fields(place, "an authentication by name", &["use"]);
            }
            return self.named(&name, "authentications", codes::UNKNOWN_AUTHENTICATION, |used| &used.authentications);
        }
        let fields = self.fields(place, "an authentication policy", &SCHEMES)?;
        let scheme = self.exactly_one(place, "an authentication policy", &SCHEMES)?;
        let policy = fields.get(scheme)?;
        match scheme {
            "basic" => self.basic(&policy),
            "bearer" => self.bearer(&policy),
            _ => {
                let message = format!("`{scheme}` authentication is not available in this version of Pavane");
                self.report_at(codes::LATER_AUTHENTICATION, &policy, message)
                    .help("use `basic` or `bearer`, or have the gateway's service settings supply the credentials");
                None
            }
        }
    }

    fn basic(&mut self, place: &Place<'_>) -> Option<Authentication> {
        if let Some(secret) = place.get("use") {
            return self.secret(place, &secret, "basic");
        }
        let fields = self.fields(place, "`basic`", &["username", "password", "use"])?;
        let username = self.required(&fields, "`basic`", "username");
        let password = self.required(&fields, "`basic`", "password");
        let username = username.and_then(|p| self.string_template(&p, "`username`"));
        let password = password.and_then(|p| self.string_template(&p, "`password`"));
        Some(Authentication::Basic { username: username?, password: password? })
    }

    fn bearer(&mut self, place: &Place<'_>) -> Option<Authentication> {
        if place.text().is_some() {
            return Some(Authentication::Bearer { token: self.template(place)? });
        }
        if let Some(secret) = place.get("use") {
            return self.secret(place, &secret, "bearer");
        }
        let fields = self.fields(place, "`bearer`", &["token", "use"])?;
        let token = self.required(&fields, "`bearer`", "token")?;
        Some(Authentication::Bearer { token: self.string_template(&token, "`token`")? })
    }

    fn secret(&mut self, policy: &Place<'_>, place: &Place<'_>, scheme: &'static str) -> Option<Authentication> {
        self.fields(policy, "an authentication by secret", &["use"]);
        let name = self.string(place, "the name of a secret")?;
        if !self.used.secrets.iter().any(|secret| secret == name) {
            let help = suggestion(name, self.used.secrets.iter().map(String::as_str))
                .unwrap_or_else(|| "add it to `use.secrets`".to_owned());
            self.report_at(codes::UNKNOWN_SECRET, place, format!("`use.secrets` does not list `{name}`")).help(help);
            return None;
        }
        Some(Authentication::Secret { scheme, secret: name.to_owned() })
    }

    fn uri(&mut self, place: &Place<'_>) -> Option<UriSource> {
        let text = self.string(place, "a URI")?;
        if whole(text).is_some() {
            return self.expression(place, "a URI").map(UriSource::Expression);
        }
        if text.is_empty() || text.contains(char::is_whitespace) {
            self.report_at(codes::PATTERN, place, format!("`{text}` is no URI"))
                .help("a URI is not empty and has no spaces; an expression stands in `${ }` as a whole");
            return None;
        }
        Some(UriSource::Text(text.to_owned()))
    }

    fn backoff(&mut self, place: &Place<'_>) -> Option<Backoff> {
        let kinds = ["constant", "linear", "exponential"];
        // `backoff: exponential` means the same as `backoff: { exponential: {} }`.
        let kind = if place.text().is_some() {
            self.one_of(place, "`backoff`", &kinds)?
        } else {
            self.fields(place, "`backoff`", &kinds)?;
            self.exactly_one(place, "`backoff`", &kinds)?
        };
        Some(match kind {
            "linear" => Backoff::Linear,
            "exponential" => Backoff::Exponential,
            _ => Backoff::Constant,
        })
    }

    fn count(&mut self, place: &Place<'_>) -> Option<u32> {
        let count = place.node.to_value().as_i64().and_then(|n| u32::try_from(n).ok());
        if count.is_none() {
            self.wrong_type(place, "`count`", "a whole number from 0 to 4294967295");
        }
        count
    }

    /// An HTTP status: a whole number, or an expression that gives one.
    fn status(&mut self, place: &Place<'_>) {
        let literal = place.node.to_value().as_i64().is_some_and(|n| (100..=599).contains(&n));
        if !literal && place.text().and_then(whole).is_none() {
            self.report_at(codes::WRONG_VALUE, place, "`status` must be an HTTP status, a number from 100 to 599")
                .help("write for example `status: 400`");
        }
    }
}
