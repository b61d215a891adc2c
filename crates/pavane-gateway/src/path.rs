//! Paths of requests, and the patterns of routes that match them.
//!
//! The gateway and the service behind it must see the same path, or a rule that guards one is walked around at the
//! other. So a path is brought into one form before it is matched, that form is what is forwarded, and what services are
//! known to read in different ways (dot segments, encoded separators, empty segments) is refused, never repaired.

use std::borrow::Cow;
use std::cmp::Ordering;

/// Longest path and query together, in bytes: what other servers take, too.
pub(crate) const MAX_TARGET: usize = 8 << 10;

/// Brings a path into the form of RFC 3986, section 6.2.2: what need not be encoded is decoded, the rest in capitals.
///
/// # Errors
/// Why the path is refused.
pub(crate) fn normalise(path: &str) -> Result<Cow<'_, str>, &'static str> {
    if is_plain(path) {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err("the path must begin with a slash");
    }
    let mut normal = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let decoded = match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err("a percent sign must be followed by two hexadecimal digits");
                };
                // Two hexadecimal digits fit into a byte.
                let byte = u8::try_from(high * 16 + low).unwrap_or_default();
                match byte {
                    b'/' | b'\\' => return Err("an encoded slash or backslash in a path is ambiguous"),
                    0..=31 | 127 => return Err("a control character in a path"),
                    _ if unreserved(byte) => byte,
                    _ => {
                        normal.push_str(&format!("%{byte:02X}"));
                        continue;
                    }
                }
            }
            b'\\' => return Err("a backslash in a path is ambiguous"),
            0..=32 | 127.. => return Err("a character that must be percent-encoded"),
            other => other,
        };
        normal.push(char::from(decoded));
    }
    let inner = normal.strip_suffix('/').unwrap_or(&normal);
    for segment in inner.split('/').skip(1) {
        // `..;a` is a dot segment with parameters to some servers.
        match segment.split(';').next().unwrap_or_default() {
            "." | ".." => return Err("a path with dot segments is ambiguous"),
            "" => return Err("a path with an empty segment is ambiguous"),
            _ => {}
        }
    }
    Ok(Cow::Owned(normal))
}

/// Whether a path is, at a glance, in its one form, as most are: nothing encoded, no segment empty or with a dot first.
fn is_plain(path: &str) -> bool {
    let fits = |(before, byte): (u8, u8)| match byte {
        b'/' => before != b'/',
        b'.' => before != b'/',
        _ => unreserved(byte),
    };
    path.starts_with('/') && path.bytes().zip(path.bytes().skip(1)).all(fits)
}

fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// The path of a route: `/x` exactly, `/x/*` for `/x` and all below it, `/x/{id}` for any one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    segments: Vec<Segment>,
    /// All that is below, too.
    rest: bool,
    /// It ends with a slash.
    slash: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Parameter(String),
}

/// Values of the parameters of a pattern, by name.
pub(crate) type Parameters = Vec<(String, String)>;

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        if !text.starts_with('/') {
            return Err(format!("`{text}` must begin with a slash"));
        }
        let (text, rest) = match text.strip_suffix("/*") {
            Some(before) => (before, true),
            None => (text, false),
        };
        let slash = !rest && text.ends_with('/');
        let inner = if slash { text.strip_suffix('/').unwrap_or(text) } else { text };
        let mut segments = Vec::new();
        for segment in inner.split('/').skip(1) {
            let name = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
            segments.push(match name {
                Some(name) if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => {
                    if segments.contains(&Segment::Parameter(name.to_owned())) {
                        return Err(format!("`{{{name}}}` stands twice in `{text}`"));
                    }
                    Segment::Parameter(name.to_owned())
                }
                Some(name) => return Err(format!("`{{{name}}}`: a parameter has letters, digits and underscores")),
                None if segment.is_empty() => return Err(format!("`{text}` has an empty segment")),
                None if segment.contains(['*', '{', '}']) => {
                    return Err(format!("`{segment}`: `*` stands alone at the end, `{{name}}` for a whole segment"));
                }
                None => {
                    let path = format!("/{segment}");
                    let normal = normalise(&path).map_err(|why| format!("`{text}`: {why}"))?;
                    Segment::Literal(normal.trim_start_matches('/').to_owned())
                }
            });
        }
        Ok(Pattern { segments, rest, slash })
    }

    /// This pattern with more segments; a name in braces is a parameter.
    pub fn below(&self, more: &[&str]) -> Pattern {
        let segments = more.iter().map(|s| match s.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            Some(name) => Segment::Parameter(name.to_owned()),
            None => Segment::Literal((*s).to_owned()),
        });
        Pattern { segments: self.segments.iter().cloned().chain(segments).collect(), rest: false, slash: false }
    }

    /// Whether it matches everything below it.
    pub fn is_prefix(&self) -> bool {
        self.rest
    }

    /// Names of its parameters.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|s| match s {
            Segment::Parameter(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// The first segment of every path that it matches, if that is always the same.
    pub fn first(&self) -> Option<&str> {
        match self.segments.first()? {
            Segment::Literal(literal) => Some(literal),
            Segment::Parameter(_) => None,
        }
    }

    /// Whether it matches a normal path.
    pub fn matches(&self, path: &str) -> bool {
        self.walk(path, |_, _| ())
    }

    /// The values of its parameters, still encoded, in a path that it matches.
    pub fn values(&self, path: &str) -> Parameters {
        let mut values = Vec::new();
        self.walk(path, |name, value| values.push((name.to_owned(), value.to_owned())));
        values
    }

    /// Goes along a path, names the parameters on the way, and gives whether it matches.
    fn walk(&self, path: &str, mut parameter: impl FnMut(&str, &str)) -> bool {
        let slash = path.len() > 1 && path.ends_with('/');
        let inner = if slash { path.strip_suffix('/').unwrap_or(path) } else { path };
        let mut given = inner.split('/').skip(1).filter(|s| !s.is_empty());
        for segment in &self.segments {
            match (segment, given.next()) {
                (Segment::Literal(literal), Some(value)) if literal == value => {}
                (Segment::Parameter(name), Some(value)) => parameter(name, value),
                _ => return false,
            }
        }
        let root = self.segments.is_empty();
        self.rest || (given.next().is_none() && (root || slash == self.slash))
    }

    /// Which of two patterns is asked first: compared from the left, a literal before a parameter before all the rest.
    pub fn order(&self, other: &Pattern) -> Ordering {
        let kinds = |p: &Pattern| -> Vec<u8> {
            let kind = |s: &Segment| u8::from(matches!(s, Segment::Parameter(_)));
            p.segments.iter().map(kind).chain(p.rest.then_some(2)).collect()
        };
        kinds(self).cmp(&kinds(other))
    }

    /// Whether it matches exactly what another does.
    pub fn same(&self, other: &Pattern) -> bool {
        let shape = |p: &Pattern| -> Vec<Option<String>> {
            let shape = |s: &Segment| match s {
                Segment::Literal(literal) => Some(literal.clone()),
                Segment::Parameter(_) => None,
            };
            p.segments.iter().map(shape).collect()
        };
        self.rest == other.rest && self.slash == other.slash && shape(self) == shape(other)
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => write!(f, "/{literal}")?,
                Segment::Parameter(name) => write!(f, "/{{{name}}}")?,
            }
        }
        match (self.rest, self.slash || self.segments.is_empty()) {
            (true, _) => f.write_str("/*"),
            (false, true) => f.write_str("/"),
            (false, false) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_form_or_is_refused() {
        for (path, normal) in [
            ("/", Some("/")),
            ("/a/b", Some("/a/b")),
            ("/a/", Some("/a/")),
            ("/%61dmin", Some("/admin")),
            ("/a%2eb", Some("/a.b")),
            ("/%c3%a9", Some("/%C3%A9")),
            ("/a;x=1/b", Some("/a;x=1/b")),
            ("/a%20b", Some("/a%20b")),
            ("/..", None),
            ("/a/../b", None),
            ("/a/%2e%2E/b", None),
            ("/a/..;x/b", None),
            ("/a/.", None),
            ("//a", None),
            ("/a//b", None),
            ("/a%2fb", None),
            ("/a%5Cb", None),
            ("/a\\b", None),
            ("/a%00", None),
            ("/a%0d%0ab", None),
            ("/a%", None),
            ("/a%zz", None),
            ("/a b", None),
            ("a", None),
            ("*", None),
        ] {
            assert_eq!(normalise(path).ok().as_deref(), normal, "{path}");
        }
    }

    proptest::proptest! {
        /// Whatever comes, what is taken is in one form: it stays as it is, and has nothing that services read in two ways.
        #[test]
        fn a_normal_path_is_normal(path in "/[a-zA-Z0-9/._~%;:@&=+$,!*'()\\\\ \u{0}\u{e9}-]{0,40}", raw in ".{0,40}") {
            for path in [path, raw.clone(), format!("/{raw}"), raw.replace('x', "%2")] {
                let Ok(normal) = normalise(&path) else { continue };
                let again = normalise(&normal);
                proptest::prop_assert_eq!(again.as_deref(), Ok(&*normal));
                proptest::prop_assert!(normal.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'\\'), "{:?}", normal);
                let upper = normal.to_ascii_uppercase();
                for ambiguous in ["//", "/./", "/../", "%2F", "%5C", "%2E", "%00", "%0D", "%0A"] {
                    proptest::prop_assert!(!upper.contains(ambiguous), "{:?}", normal);
                }
                proptest::prop_assert!(!normal.ends_with("/..") && !normal.ends_with("/."), "{:?}", normal);
            }
        }
    }

    #[test]
    fn patterns_match_whole_segments() {
        for (pattern, path, parameters) in [
            ("/x", "/x", Some("")),
            ("/x", "/x/", None),
            ("/x/", "/x/", Some("")),
            ("/x", "/xy", None),
            ("/x/*", "/x", Some("")),
            ("/x/*", "/x/", Some("")),
            ("/x/*", "/x/a/b", Some("")),
            ("/x/*", "/xy", None),
            ("/*", "/", Some("")),
            ("/*", "/a/b", Some("")),
            ("/", "/", Some("")),
            ("/", "/a", None),
            ("/x/{id}", "/x/7", Some("id=7")),
            ("/x/{id}", "/x", None),
            ("/x/{id}", "/x/7/8", None),
            ("/x/{id}/y/{other}", "/x/7/y/%20", Some("id=7,other=%20")),
            ("/x/{id}/*", "/x/7/8", Some("id=7")),
        ] {
            let pattern = Pattern::parse(pattern).unwrap();
            let found = pattern.matches(path).then(|| pattern.values(path));
            let found = found.map(|p| p.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(","));
            assert_eq!(found.as_deref(), parameters, "{pattern} {path}");
        }
    }

    #[test]
    fn a_pattern_is_shown_as_it_was_written_or_refused() {
        for text in ["/", "/*", "/x", "/x/", "/x/*", "/x/{id}", "/x/{id}/*"] {
            assert_eq!(Pattern::parse(text).unwrap().to_string(), text);
        }
        for text in ["x", "/x*", "/*/x", "/{}", "/{a b}", "/x{id}", "/../x", "/a//b", "/{a}/{a}"] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_more_particular_pattern_is_asked_first() {
        let mut patterns = ["/*", "/{a}/b", "/x/*", "/x/{id}", "/x/y", "/x"].map(|t| Pattern::parse(t).unwrap());
        patterns.sort_by(Pattern::order);
        let shown: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["/x", "/x/y", "/x/{id}", "/x/*", "/{a}/b", "/*"]);
        assert!(Pattern::parse("/x/{a}").unwrap().same(&Pattern::parse("/x/{b}").unwrap()));
        assert!(!Pattern::parse("/x/*").unwrap().same(&Pattern::parse("/x").unwrap()));
    }
}
