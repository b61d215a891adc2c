//! Everything that settings amount to, built whole and exchanged whole.
//!
//! What is known about the world (health of services, numbers) is taken over where a new state has the same part.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::access::AccessLog;
use crate::auth::Auth;
use crate::cache::Store;
use crate::port::Workflows;
use crate::settings::{GatewaySettings, RouteSettings};
use crate::table::{Table, Target};
use crate::tls;
use crate::units::{Fault, Located};
use crate::upstream::Upstream;
use crate::upstream::client::Clients;

/// What the binary reads from its file for the gateway.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// `gateway:`
    pub settings: GatewaySettings,
    /// `routes:`
    pub routes: Vec<Located<RouteSettings>>,
    /// Base URLs of the services, by name.
    pub services: BTreeMap<String, Vec<String>>,
}

impl Setup {
    /// Checks all that can be checked without a process around it.
    ///
    /// # Errors
    /// Every fault.
    pub fn check(&self) -> Result<(), Vec<Fault>> {
        let mut faults = Vec::new();
        let (upstreams, _) = upstreams(self, None, &mut faults);
        check(&self.settings, &mut faults);
        let auth = Auth::new(&self.settings.auth, None, &mut faults);
        tls(&self.settings, &mut faults);
        match Table::build(&self.settings, &self.routes, &upstreams, None) {
            Ok(table) => check_auth(&table, &auth, &mut faults),
            Err(more) => faults.extend(more),
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// A setup that is in force.
pub(crate) struct State {
    pub settings: GatewaySettings,
    pub table: Table,
    pub upstreams: BTreeMap<String, Arc<Upstream>>,
    pub clients: Clients,
    pub auth: Auth,
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub port: Arc<dyn Workflows>,
    /// Empty in each new state: a route that has changed must not answer as it was.
    pub cache: Arc<Store>,
    pub access: Option<AccessLog>,
}

/// What stays when settings change.
pub(crate) struct Ground {
    pub port: Arc<dyn Workflows>,
    pub tls: rustls::ClientConfig,
}

impl State {
    /// Builds a state; parts that are the same as `before` are taken over.
    ///
    /// # Errors
    /// Every fault of the setup. Nothing was begun then.
    pub fn build(setup: Setup, ground: &Ground, before: Option<&State>) -> Result<State, Vec<Fault>> {
        let mut faults = Vec::new();
        let (upstreams, new) = upstreams(&setup, before, &mut faults);
        let Setup { settings, routes, .. } = setup;
        check(&settings, &mut faults);
        let auth = Auth::new(&settings.auth, before.map(|b| &b.auth), &mut faults);
        let tls = tls(&settings, &mut faults);
        let table = Table::build(&settings, &routes, &upstreams, before.map(|b| &b.table));
        let table = match table {
            Ok(table) => table,
            Err(more) => {
                faults.extend(more);
                return Err(faults);
            }
        };
        check_auth(&table, &auth, &mut faults);
        for route in table.routes() {
            if let Target::Workflow(target) = &route.target
                && let Err(why) = ground.port.input_schema(&target.workflow)
            {
                let message = format!("routes: {}: workflow: {why}", route.name);
                faults.push(Fault { line: route.line, column: route.column, message });
            }
        }
        let access = access(&settings, before, &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        let connect = settings.timeouts.connect.unwrap_or(Duration::from_secs(5));
        let clients = match before {
            Some(before) if before.settings.timeouts.connect == settings.timeouts.connect => before.clients.clone(),
            _ => Clients::new(&ground.tls, connect),
        };
        new.iter().for_each(|upstream| upstream.watch(clients.clone()));
        let (port, cache) = (ground.port.clone(), Arc::default());
        Ok(State { settings, table, upstreams, clients, auth, tls, port, cache, access })
    }
}

/// The access log. A file that is in use already is opened again: settings are read again when it was moved away, too.
fn access(settings: &GatewaySettings, before: Option<&State>, faults: &mut Vec<Fault>) -> Option<AccessLog> {
    let path = settings.access_log.as_ref()?;
    if let Some(log) = before.and_then(|state| state.access.as_ref()).filter(|log| log.is_at(path)) {
        log.reopen();
        return Some(log.clone());
    }
    let fault = |error| {
        let message = format!("gateway.access_log: {} cannot be written: {error}", path.display());
        Fault { line: 0, column: 0, message }
    };
    AccessLog::open(path).map_err(|error| faults.push(fault(error))).ok()
}

/// Services by name.
pub(crate) type Upstreams = BTreeMap<String, Arc<Upstream>>;

/// All services, and those of them that were not there before.
pub(crate) fn upstreams(
    setup: &Setup,
    before: Option<&State>,
    faults: &mut Vec<Fault>,
) -> (Upstreams, Vec<Arc<Upstream>>) {
    let (mut all, mut new) = (BTreeMap::new(), Vec::new());
    let settings = &setup.settings.upstreams;
    for (name, located) in settings.iter().filter(|(name, _)| !setup.services.contains_key(*name)) {
        let message = format!("gateway.upstreams.{name}: there is no such service under `services`");
        faults.push(Fault { line: located.line, column: located.column, message });
    }
    for (name, urls) in &setup.services {
        let located = settings.get(name).cloned().unwrap_or(Located::nowhere(Default::default()));
        let known = before.and_then(|b| b.upstreams.get(name)).filter(|u| u.same(urls, &located.value));
        if let Some(known) = known {
            all.insert(name.clone(), known.clone());
            continue;
        }
        match Upstream::new(name, urls, located.value) {
            Ok(upstream) => {
                let upstream = Arc::new(upstream);
                new.push(upstream.clone());
                all.insert(name.clone(), upstream);
            }
            Err(why) => {
                let message = format!("gateway.upstreams.{name}: {why}");
                faults.push(Fault { line: located.line, column: located.column, message });
            }
        }
    }
    (all, new)
}

/// TLS of the listener. Certificates are read again each time: they turn, too.
fn tls(settings: &GatewaySettings, faults: &mut Vec<Fault>) -> Option<Arc<rustls::ServerConfig>> {
    let located = settings.tls.as_ref()?;
    let fault = |why| Fault { line: located.line, column: located.column, message: format!("gateway.tls: {why}") };
    tls::server(&located.value).map_err(|why| faults.push(fault(why))).ok()
}

/// A route that nobody can pass is a mistake.
fn check_auth(table: &Table, auth: &Auth, faults: &mut Vec<Fault>) {
    for route in table.routes() {
        for way in route.auth.iter().filter(|way| !auth.has(**way)) {
            let message = format!("routes: {}: auth: {way:?}: nobody can be known so: see `gateway.auth`", route.name);
            faults.push(Fault { line: route.line, column: route.column, message });
        }
    }
}

fn check(settings: &GatewaySettings, faults: &mut Vec<Fault>) {
    let limits = &settings.limits;
    let mut within = |key: &str, value: u64, least: u64, most: u64| {
        if !(least..=most).contains(&value) {
            let message = format!("gateway.limits.{key}: {value} is not from {least} to {most}");
            faults.push(Fault { line: 0, column: 0, message });
        }
    };
    within("connections", limits.connections as u64, 1, 1_000_000);
    // Below, ordinary browsers are refused; above, each connection may hold that much.
    within("header_bytes", limits.header_bytes as u64, 1_024, 1 << 20);
    within("headers", limits.headers as u64, 10, 1_000);
    within("streams", u64::from(limits.streams), 1, 10_000);
}
