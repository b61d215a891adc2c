//! `wait`: a point in time, durable. The output is the input.

use crate::engine::event::{Event, TokenId};
use crate::engine::machine::{Go, Machine};
use crate::problem::Problem;
use crate::program::DurationCode;

impl Machine<'_> {
    pub fn wait(&mut self, t: TokenId, duration: &DurationCode) -> Result<Go, Problem> {
        let data = self.data(t);
        let until = self.now.plus(self.task_scope(t).duration(duration, &data)?);
        if until <= self.now {
            return Ok(Go::Leave(data));
        }
        self.emit(Event::Waiting { t, until });
        Ok(Go::Wait)
    }
}
