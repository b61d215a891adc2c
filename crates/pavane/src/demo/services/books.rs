//! What the services did, and whether it adds up.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One effect of a service, under the key that caused it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Effect {
    /// `Idempotency-Key`.
    pub key: String,
    /// The order it is for.
    pub order: String,
    /// `reservation`, `charge`, `shipment`, `message`, `confirmation`.
    pub kind: String,
    /// Money in cents, or pieces of stock.
    pub amount: i64,
    /// How often the work was done: more than once is a double booking.
    pub executions: u32,
    /// How often it was undone.
    pub undone: u32,
}

/// The books of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Books {
    /// Its name.
    pub service: String,
    /// Its effects.
    pub effects: Vec<Effect>,
    /// Requests that came.
    pub calls: u64,
    /// Requests whose key had come before.
    pub repeats: u64,
    /// Requests refused (declined, unavailable, failing).
    pub refused: u64,
    /// The sum it keeps beside the list: money taken less money given back, or pieces reserved less pieces released.
    pub balance: i64,
}

/// How an order ended, as its client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is paid and shipped.
    Completed,
    /// It failed, and everything is undone.
    Undone,
    /// It failed, and these tasks are named as unresolved.
    Unresolved(BTreeSet<String>),
}

impl Fate {
    /// The fate of an order that failed, by the `compensation` its instance was answered with; nothing when that is
    /// none.
    pub fn of_failed(compensation: &Value) -> Option<Fate> {
        let unresolved = compensation["unresolved"].as_array()?;
        if unresolved.is_empty() {
            return Some(Fate::Undone);
        }
        let tasks = unresolved.iter().filter_map(|entry| entry["reference"].as_str()?.rsplit('/').next());
        let kinds = tasks.filter_map(|task| UNDOABLE.iter().find(|(name, _)| *name == task));
        Some(Fate::Unresolved(kinds.map(|(_, kind)| (*kind).to_owned()).collect()))
    }
}

/// The tasks of the saga that can be undone, and the effect of each.
const UNDOABLE: [(&str, &str); 4] =
    [("reserve", "reservation"), ("charge", "charge"), ("ship", "shipment"), ("confirm", "confirmation")];

/// What an audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Orders looked at.
    pub orders: usize,
    /// Effects looked at.
    pub effects: usize,
    /// Everything that does not add up; empty means clean.
    pub problems: Vec<String>,
}

/// What a completed order has at each service, exactly once.
const COMPLETED: [(&str, &str); 5] = [
    ("inventory", "reservation"),
    ("payment", "charge"),
    ("shipping", "shipment"),
    ("notification", "message"),
    ("orders", "confirmation"),
];
/// What may stand after an order failed: a message cannot be unsent.
const HARMLESS: &str = "message";

/// Audits the books against what the clients were told: each order paid and shipped exactly once, or every effect
/// undone; no key executed twice; stock and money add up.
pub fn audit(books: &[Books], orders: &BTreeMap<String, Fate>) -> Audit {
    let mut problems = Vec::new();
    let mut standing: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    let mut count = 0;
    for service in books {
        let mut balance = 0;
        for effect in &service.effects {
            count += 1;
            let name = format!("{} of order {} at {}", effect.kind, effect.order, service.service);
            if effect.executions > 1 {
                problems.push(format!("the {name} was executed {} times under one key", effect.executions));
            }
            if effect.undone > 1 {
                problems.push(format!("the {name} was undone {} times", effect.undone));
            }
            if !orders.contains_key(&effect.order) {
                problems.push(format!("the {name} belongs to an order nobody placed"));
            }
            if effect.executions > 0 && effect.undone == 0 {
                *standing.entry((&effect.order, &effect.kind)).or_default() += 1;
                balance += effect.amount;
            }
        }
        if balance != service.balance {
            problems.push(format!(
                "{} keeps a balance of {}, but its entries sum to {balance}",
                service.service, service.balance
            ));
        }
    }
    for (order, fate) in orders {
        for (service, kind) in COMPLETED {
            let stands = standing.get(&(order.as_str(), kind)).copied().unwrap_or(0);
            match fate {
                Fate::Completed if stands != 1 => {
                    problems.push(format!("order {order} is completed, but {service} has {stands} {kind}s for it"));
                }
                Fate::Undone if stands > 0 && kind != HARMLESS => {
                    problems.push(format!("order {order} failed, but its {kind} at {service} stands"));
                }
                Fate::Unresolved(named) if stands > 0 && kind != HARMLESS && !named.contains(kind) => {
                    problems
                        .push(format!("order {order} failed, and its {kind} at {service} stands without being named"));
                }
                _ => {}
            }
        }
    }
    Audit { orders: orders.len(), effects: count, problems }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(kind: &str, executions: u32, undone: u32) -> Effect {
        Effect { key: kind.into(), order: "o1".into(), kind: kind.into(), amount: 5, executions, undone }
    }

    fn books(change: impl Fn(&str) -> Option<Effect>) -> Vec<Books> {
        COMPLETED
            .iter()
            .map(|(service, kind)| {
                let effects: Vec<Effect> = change(kind).into_iter().collect();
                let balance = effects.iter().filter(|e| e.executions > 0 && e.undone == 0).map(|e| e.amount).sum();
                Books { service: (*service).into(), effects, balance, ..Books::default() }
            })
            .collect()
    }

    fn problems(books: &[Books], fate: Fate) -> Vec<String> {
        audit(books, &BTreeMap::from([("o1".to_owned(), fate)])).problems
    }

    #[test]
    fn what_adds_up_is_clean() {
        assert_eq!(problems(&books(|kind| Some(effect(kind, 1, 0))), Fate::Completed), Vec::<String>::new());
        assert_eq!(
            problems(&books(|kind| Some(effect(kind, 1, u32::from(kind != "message")))), Fate::Undone),
            Vec::<String>::new()
        );
        assert_eq!(problems(&books(|_| None), Fate::Undone), Vec::<String>::new());
        let named = Fate::Unresolved(BTreeSet::from(["charge".to_owned()]));
        assert_eq!(
            problems(&books(|kind| (kind == "charge").then(|| effect(kind, 1, 0))), named),
            Vec::<String>::new()
        );
    }

    #[test]
    fn every_kind_of_violation_is_found() {
        let twice = books(|kind| Some(effect(kind, if kind == "charge" { 2 } else { 1 }, 0)));
        let missing = books(|kind| (kind != "shipment").then(|| effect(kind, 1, 0)));
        let standing = books(|kind| (kind == "charge").then(|| effect(kind, 1, 0)));
        let undone_twice = books(|kind| (kind == "charge").then(|| effect(kind, 1, 2)));
        let mut wrong_sum = books(|kind| Some(effect(kind, 1, 0)));
        wrong_sum[1].balance += 1;
        let mut foreign = books(|kind| Some(effect(kind, 1, 0)));
        foreign[0].effects.push(Effect { order: "o2".into(), undone: 1, ..effect("reservation", 1, 1) });
        for (books, fate, part) in [
            (twice, Fate::Completed, "2 times"),
            (missing, Fate::Completed, "0 shipments"),
            (standing.clone(), Fate::Undone, "stands"),
            (standing, Fate::Unresolved(BTreeSet::new()), "without being named"),
            (undone_twice, Fate::Undone, "undone 2 times"),
            (wrong_sum, Fate::Completed, "balance"),
            (foreign, Fate::Completed, "nobody placed"),
        ] {
            let found = problems(&books, fate);
            assert!(found.iter().any(|p| p.contains(part)), "{part}: {found:?}");
        }
    }
}
