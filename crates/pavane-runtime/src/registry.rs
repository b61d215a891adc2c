//! Deployed definitions and their compiled programs: by digest for instances that run, by name for those that start.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use pavane_core::definition::{self, Diagnostic, Severity};
use pavane_core::program::{Program, Resources};
use pavane_store::Deployed;

/// What is deployed. Reads never wait for a compilation.
#[derive(Debug, Default)]
pub(crate) struct Registry(RwLock<Tables>);

#[derive(Debug, Default)]
struct Tables {
    by_digest: HashMap<String, Arc<Program>>,
    /// Versions in their order, so that the last is the newest.
    by_name: HashMap<(String, String), BTreeMap<Version, String>>,
    deployed: Vec<Deployed>,
}

impl Registry {
    pub fn insert(&self, program: Arc<Program>, deployed: Deployed) {
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let key = (deployed.namespace.clone(), deployed.name.clone());
        tables.by_name.entry(key).or_default().insert(Version::new(&deployed.version), deployed.digest.clone());
        tables.by_digest.insert(deployed.digest.clone(), program);
        tables.deployed.retain(|d| {
            (&d.namespace, &d.name, &d.version) != (&deployed.namespace, &deployed.name, &deployed.version)
        });
        tables.deployed.push(deployed);
    }

    pub fn by_digest(&self, digest: &str) -> Option<Arc<Program>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).by_digest.get(digest).cloned()
    }

    /// The program of a name: of a version, or the newest.
    ///
    /// # Errors
    /// A sentence that says what there is instead.
    pub fn find(&self, namespace: &str, name: &str, version: Option<&str>) -> Result<Arc<Program>, String> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(versions) = tables.by_name.get(&(namespace.to_owned(), name.to_owned())) else {
            let mut known: Vec<String> = tables.by_name.keys().map(|(ns, name)| format!("{ns}/{name}")).collect();
            known.sort();
            known.truncate(10);
            let known = if known.is_empty() { "nothing is".to_owned() } else { known.join(", ") };
            return Err(format!("the workflow {namespace}/{name} is not deployed; deployed: {known}"));
        };
        let digest = match version.filter(|v| *v != "latest") {
            Some(version) => versions.get(&Version::new(version)),
            None => versions.values().next_back(),
        };
        digest.and_then(|digest| tables.by_digest.get(digest)).cloned().ok_or_else(|| {
            let known: Vec<&str> = versions.keys().map(|v| v.text.as_str()).collect();
            format!("{namespace}/{name} has no version {}; it has {}", version.unwrap_or("latest"), known.join(", "))
        })
    }

    /// The digest deployed under a name and version.
    pub fn digest_of(&self, namespace: &str, name: &str, version: &str) -> Option<String> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        tables.by_name.get(&(namespace.to_owned(), name.to_owned()))?.get(&Version::new(version)).cloned()
    }

    pub fn deployed(&self) -> Vec<Deployed> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).deployed.clone()
    }
}

/// Compiles a text with the resources at hand; gives the warnings, too.
///
/// # Errors
/// Every diagnostic, when one of them is an error.
pub(crate) fn compile(
    file: &str,
    text: &str,
    resources: &Resources,
) -> Result<(Program, Vec<Diagnostic>), Vec<Diagnostic>> {
    let definition::Reading { definition, mut diagnostics } = definition::read(file, text);
    let failed = diagnostics.iter().any(|d| d.severity == Severity::Error);
    // What could be read is compiled all the same, so that all problems are told at once.
    match definition.map(|definition| Program::compile(&definition, resources)) {
        Some(Ok(program)) if !failed => Ok((program, diagnostics)),
        Some(Err(more)) => {
            diagnostics.extend(more);
            diagnostics.sort_by_key(|d| d.at);
            Err(diagnostics)
        }
        _ => Err(diagnostics),
    }
}

/// A semantic version in SemVer's order: numbers, then a release above its pre-releases.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    numbers: Vec<u64>,
    /// `None` for a release.
    pre: Option<Vec<Part>>,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Text(String),
}

impl Version {
    fn new(text: &str) -> Version {
        let core = text.split('+').next().unwrap_or_default();
        let (numbers, pre) = core.split_once('-').map_or((core, None), |(numbers, pre)| (numbers, Some(pre)));
        let part = |part: &str| part.parse().map_or_else(|_| Part::Text(part.to_owned()), Part::Number);
        Version {
            // A number past every other is still above them.
            numbers: numbers.split('.').map(|n| n.parse().unwrap_or(u64::MAX)).collect(),
            pre: pre.map(|pre| pre.split('.').map(part).collect()),
            text: text.to_owned(),
        }
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> std::cmp::Ordering {
        let release = |v: &Version| v.pre.is_none();
        self.numbers
            .cmp(&other.numbers)
            .then_with(|| release(self).cmp(&release(other)))
            .then_with(|| self.pre.cmp(&other.pre))
            .then_with(|| self.text.cmp(&other.text))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_as_semver_says() {
        let order = [
            "0.9.0",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0",
            "1.2.0",
            "1.10.0",
            "99999999999999999999.0.0",
        ];
        let mut versions: Vec<Version> = order.iter().rev().map(|v| Version::new(v)).collect();
        versions.sort();
        assert_eq!(versions.iter().map(|v| v.text.as_str()).collect::<Vec<_>>(), order);
    }
}
