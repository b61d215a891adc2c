//! `pavane secret`: what the configuration needs instead of secrets.

use std::io::Read;

use clap::{Args, Subcommand};

use super::{Done, Failure, OK};

#[derive(Debug, Args)]
pub(crate) struct Secret {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Make a new API key: printed once, with the line for `gateway.auth.keys`, or `admin.keys`.
    Key {
        /// Whose.
        name: String,
    },
    /// Read a password from standard input and print the line for `gateway.auth.basic`, or `admin.basic`.
    Password {
        /// Whose.
        name: String,
    },
}

impl Secret {
    pub fn run(self) -> Done {
        let no_chance = || Failure::failed("the system gives no random numbers");
        match self.kind {
            Kind::Key { name } => {
                let name = plain(&name)?;
                let (key, hash) = pavane_gateway::new_key().ok_or_else(no_chance)?;
                println!("{key}");
                eprintln!("Give it to {name}; it cannot be shown again. Under `gateway.auth.keys`, or `admin.keys`:");
                eprintln!("  - {{ name: {name}, sha256: '{hash}', scopes: [] }}");
            }
            Kind::Password { name } => {
                let name = plain(&name)?;
                let mut text = String::new();
                let read = std::io::stdin().read_to_string(&mut text);
                read.map_err(|e| Failure::wrong(format!("standard input: {e}")))?;
                let password = text.trim_end_matches(['\n', '\r']);
                if password.is_empty() {
                    return Err(Failure::wrong("standard input holds no password"));
                }
                let hash = pavane_gateway::hash_password(password).ok_or_else(no_chance)?;
                println!("- {{ name: {name}, pbkdf2: '{hash}', scopes: [] }}");
            }
        }
        Ok(OK)
    }
}

/// A name as it can stand in the file without quotes.
fn plain(name: &str) -> Result<&str, Failure> {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let wrong = || Failure::wrong(format!("`{name}` cannot be a name: letters, digits, `-`, `_` and `.` can"));
    plain.then_some(name).ok_or_else(wrong)
}
