//! Documents from chance: grammar-weighted, valid, small enough to read.

use serde_json::{Value, json};

use crate::chance::Chance;

/// Tasks of a document, at most.
const MAX_TASKS: usize = 14;
/// How deep they nest.
const MAX_DEPTH: usize = 3;
/// Services that exist.
pub const SERVICES: usize = 4;

/// A random document. Every call to a service `sN` can be undone by the function `undo-sN` of the same service.
pub fn document(chance: &mut Chance) -> Value {
    let mut generator = Generator { chance, left: MAX_TASKS, next: 0 };
    let tasks = generator.list(0);
    let functions: serde_json::Map<String, Value> = (0..SERVICES)
        .map(|n| {
            let undo = json!({
                "call": "http",
                "with": { "method": "post", "endpoint": format!("http://s{n}/undo"), "body": {
                    "input": "${ .input }", "output": "${ .output }", "error": "${ .error.status }", "context": "${ $context }"
                } }
            });
            (format!("undoS{n}"), undo)
        })
        .collect();
    let mut document = json!({
        "document": { "dsl": "1.0.3", "namespace": "sim", "name": "generated", "version": "1.0.0" },
        "use": { "functions": functions },
        "do": tasks,
    });
    if generator.chance.percent(20) {
        document["timeout"] = json!({ "after": { "seconds": 60 + generator.chance.below(600) } });
    }
    document
}

/// The document's text: JSON is YAML.
pub fn text(document: &Value) -> String {
    serde_json::to_string_pretty(document).unwrap_or_default()
}

struct Generator<'a> {
    chance: &'a mut Chance,
    left: usize,
    next: usize,
}

impl Generator<'_> {
    fn list(&mut self, depth: usize) -> Vec<Value> {
        let count = 1 + self.chance.below(3);
        let mut tasks = Vec::new();
        while tasks.len() < count && (self.left > 0 || tasks.is_empty()) {
            self.left = self.left.saturating_sub(1);
            tasks.push(self.task(depth));
        }
        tasks
    }

    fn task(&mut self, depth: usize) -> Value {
        let name = format!("t{}", self.next);
        self.next += 1;
        let mut task = match self.chance.below(if depth >= MAX_DEPTH { 60 } else { 100 }) {
            0..36 => self.call(&name),
            36..38 => {
                let kind = if self.chance.percent(50) { "sim.ping" } else { "sim.pong" };
                json!({ "listen": { "to": { "one": { "with": { "type": kind } } } } })
            }
            38..40 => {
                let child =
                    json!({ "namespace": "sim", "name": "child", "version": "1.0.0", "input": { "task": name } });
                json!({ "run": { "workflow": child, "await": self.chance.percent(70) } })
            }
            40..45 => match self.chance.below(3) {
                0 => json!({ "set": "${ . }" }),
                1 => json!({ "set": { "order": "${ .order }", "by": name } }),
                _ => json!({ "set": "${ $context }" }),
            },
            45..50 => json!({ "wait": { "seconds": self.chance.below(20) } }),
            50..53 => {
                json!({ "raise": { "error": { "type": "https://example.com/broken", "status": 422, "title": "Broken" } } })
            }
            53..57 => json!({ "emit": { "event": { "with": { "type": "sim.happened", "data": "${ . }" } } } }),
            57..60 => {
                let when = ["false", ".id", "$context.last", ".by"][self.chance.below(4)];
                json!({ "switch": [{ "some": { "when": when, "then": "exit" } }, { "others": { "then": "continue" } }] })
            }
            60..70 => json!({ "do": self.list(depth + 1) }),
            70..82 => self.attempt(depth),
            82..94 => {
                let count = 2 + self.chance.below(2);
                let branches: Vec<Value> = (0..count).map(|_| self.task(depth + 1)).collect();
                json!({ "fork": { "compete": self.chance.percent(40), "branches": branches } })
            }
            _ => json!({ "for": { "each": "item", "in": [1, 2] }, "do": self.list(depth + 1) }),
        };
        if self.chance.percent(8) {
            task["timeout"] = json!({ "after": { "seconds": 1 + self.chance.below(30) } });
        }
        if self.chance.percent(4) {
            task["then"] = json!(if self.chance.percent(50) { "exit" } else { "end" });
        }
        if self.chance.percent(4) {
            task["if"] = json!("$workflow.input.fail | not");
        }
        json!({ name: task })
    }

    fn call(&mut self, name: &str) -> Value {
        let service = self.chance.below(SERVICES);
        let mut call = json!({
            "call": "http",
            "with": { "method": "post", "endpoint": format!("http://s{service}/{name}"), "body": { "task": name } },
            "output": { "as": "$input" },
        });
        // What flows is seen by what follows: a service's answer, and what the context keeps of it. Plain paths only,
        // because those need no compiler: documents are many.
        if self.chance.percent(30) {
            call["output"] = json!({ "as": { "order": "${ $input.order }", "id": "${ .id }", "by": name } });
        }
        if self.chance.percent(20) {
            call["with"]["body"] = json!({ "task": name, "data": "${ . }", "context": "${ $context }" });
        }
        if self.chance.percent(20) {
            let key = ["last", "other", name][self.chance.below(3)];
            let mut export = json!({ "order": "${ $context.order }" });
            export[key] = json!("${ . }");
            call["export"] = json!({ "as": export });
        }
        if self.chance.percent(85) {
            call["metadata"] = json!({ "pavane": { "compensate": format!("undoS{service}") } });
        }
        if self.chance.percent(15) {
            call["metadata"]["pavane"]["await"] = json!("callback");
        }
        call
    }

    fn attempt(&mut self, depth: usize) -> Value {
        let mut catch = json!({});
        if self.chance.percent(30) {
            catch["errors"] = json!({ "with": { "status": 503 } });
        }
        if self.chance.percent(60) {
            catch["retry"] = json!({
                "delay": { "seconds": self.chance.below(5) },
                "backoff": { "exponential": {} },
                "limit": { "attempt": { "count": 1 + self.chance.below(3) } },
            });
        }
        if self.chance.percent(50) {
            catch["do"] = json!(self.list(depth + 1));
        }
        json!({ "try": self.list(depth + 1), "catch": catch })
    }
}
