//! Deployed definitions and their compiled programs: by digest for instances that run, by name for those that start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use ahash::HashMap;
use pavane_core::definition::{self, Definition, Diagnostic, Mode, Severity};
use pavane_core::program::{Program, Resources};
use pavane_store::Deployed;

/// What is deployed. Reads never wait for a compilation.
#[derive(Debug, Default)]
pub(crate) struct Registry(RwLock<Tables>);

#[derive(Debug, Default)]
struct Tables {
    /// Each with the definition that it was made of.
    by_digest: HashMap<String, (Arc<Program>, Arc<Deployed>)>,
    /// Versions in their order, so that the last is the newest.
    by_name: HashMap<(String, String), BTreeMap<Version, Arc<Compiled>>>,
    deployed: Vec<Deployed>,
}

/// A definition in both modes.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// Everything at the engine.
    pub orchestrated: Arc<Program>,
    /// Each effect at the service that owns it, or why that cannot be. What has no such effect is the same program in
    /// both modes.
    pub choreographed: Result<Arc<Program>, Vec<Diagnostic>>,
}

impl Compiled {
    /// The program for a mode.
    ///
    /// # Errors
    /// Why there is none.
    fn program(&self, mode: Option<Mode>) -> Result<Arc<Program>, String> {
        match mode.unwrap_or(self.orchestrated.mode()) {
            Mode::Orchestration => Ok(self.orchestrated.clone()),
            Mode::Choreography => self.choreographed.clone().map_err(|problems| {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                format!("it cannot be choreographed:\n{}", problems.join("\n"))
            }),
        }
    }
}

impl Registry {
    pub fn insert(&self, compiled: Compiled, deployed: Deployed) {
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let key = (deployed.namespace.clone(), deployed.name.clone());
        let source = Arc::new(deployed.clone());
        let programs = [Some(&compiled.orchestrated), compiled.choreographed.as_ref().ok()];
        for program in programs.into_iter().flatten() {
            tables.by_digest.insert(program.digest().to_owned(), (program.clone(), source.clone()));
        }
        tables.by_name.entry(key).or_default().insert(Version::new(&deployed.version), Arc::new(compiled));
        tables.deployed.retain(|d| {
            (&d.namespace, &d.name, &d.version) != (&deployed.namespace, &deployed.name, &deployed.version)
        });
        tables.deployed.push(deployed);
    }

    pub fn by_digest(&self, digest: &str) -> Option<Arc<Program>> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        tables.by_digest.get(digest).map(|(program, _)| program.clone())
    }

    /// The definition that the program of a digest was made of.
    pub fn source(&self, digest: &str) -> Option<Arc<Deployed>> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        tables.by_digest.get(digest).map(|(_, source)| source.clone())
    }

    /// Digests of the definitions that the participant of a service takes part in.
    pub fn taking_part(&self, service: &str) -> Vec<String> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let takes_part = |program: &Program| program.locations().iter().any(|at| at.name() == service);
        let programs = tables.by_digest.values().filter(|(program, _)| takes_part(program));
        programs.map(|(_, source)| source.digest.clone()).collect()
    }

    /// The program of a name: of a version, or the newest; in a mode, or in that of its document.
    ///
    /// # Errors
    /// A sentence that says what there is instead.
    pub fn find(
        &self,
        namespace: &str,
        name: &str,
        version: Option<&str>,
        mode: Option<Mode>,
    ) -> Result<Arc<Program>, Unfit> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(versions) = tables.by_name.get(&(namespace.to_owned(), name.to_owned())) else {
            let mut known: Vec<String> = tables.by_name.keys().map(|(ns, name)| format!("{ns}/{name}")).collect();
            known.sort();
            known.truncate(10);
            let known = if known.is_empty() { "nothing is".to_owned() } else { known.join(", ") };
            return Err(Unfit::Unknown(format!("the workflow {namespace}/{name} is not deployed; deployed: {known}")));
        };
        let compiled = match version.filter(|v| *v != "latest") {
            Some(version) => versions.get(&Version::new(version)),
            None => versions.values().next_back(),
        };
        let Some(compiled) = compiled else {
            let known: Vec<&str> = versions.keys().map(|v| v.text.as_str()).collect();
            let version = version.unwrap_or("latest");
            let known = known.join(", ");
            return Err(Unfit::Unknown(format!("{namespace}/{name} has no version {version}; it has {known}")));
        };
        compiled.program(mode).map_err(|why| Unfit::Mode(format!("{namespace}/{name}: {why}")))
    }

    /// The digest deployed under a name and version.
    pub fn digest_of(&self, namespace: &str, name: &str, version: &str) -> Option<String> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let versions = tables.by_name.get(&(namespace.to_owned(), name.to_owned()))?;
        Some(versions.get(&Version::new(version))?.orchestrated.digest().to_owned())
    }

    pub fn deployed(&self) -> Vec<Deployed> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).deployed.clone()
    }
}

/// Why a definition gives no program to start.
pub(crate) enum Unfit {
    /// It is not deployed.
    Unknown(String),
    /// It does not fit the mode.
    Mode(String),
}

/// Compiles a text with the resources at hand, in both modes; gives the warnings, too. `services` have
/// participants; without them, whoever a definition names has one.
///
/// # Errors
/// Every diagnostic, when one of them is an error in the document's own mode.
pub(crate) fn compile(
    file: &str,
    text: &str,
    resources: &Resources,
    services: Option<&BTreeSet<String>>,
) -> Result<(Compiled, Vec<Diagnostic>), Vec<Diagnostic>> {
    let definition::Reading { definition, mut diagnostics } = definition::read(file, text);
    let failed = diagnostics.iter().any(|d| d.severity == Severity::Error);
    // What could be read is compiled all the same, so that all problems are told at once.
    let compiled = definition.map(|definition| in_both_modes(&definition, resources, services));
    match compiled {
        Some(Ok(compiled)) if !failed => Ok((compiled, diagnostics)),
        Some(Err(more)) => {
            diagnostics.extend(more);
            diagnostics.sort_by_key(|d| d.at);
            Err(diagnostics)
        }
        _ => Err(diagnostics),
    }
}

fn in_both_modes(
    definition: &Definition,
    resources: &Resources,
    services: Option<&BTreeSet<String>>,
) -> Result<Compiled, Vec<Diagnostic>> {
    let orchestrated = Arc::new(Program::compile(definition, resources)?);
    let placed = match services {
        Some(services) => Program::choreograph(definition, resources, services),
        None => Program::choreograph_anywhere(definition, resources),
    };
    let choreographed = placed.map(|program| match program.placed() {
        Mode::Orchestration => orchestrated.clone(),
        Mode::Choreography => Arc::new(program),
    });
    match choreographed {
        Err(problems) if orchestrated.mode() == Mode::Choreography => Err(problems),
        choreographed => Ok(Compiled { orchestrated, choreographed }),
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
