//! What a schedule decides, as a sequence of choices: the reference asks, and the search goes through all answers.

/// A path through the choices of a scenario. Run, [`Choices::turn`], run again: each path once, depth first.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    /// The answer and how many there are, in the order of the questions.
    made: Vec<(usize, usize)>,
    asked: usize,
}

impl Choices {
    /// One of `count` ways to go on.
    pub fn choose(&mut self, count: usize) -> usize {
        if self.asked == self.made.len() {
            self.made.push((0, count));
        }
        let (answer, _) = self.made.get(self.asked).copied().unwrap_or_default();
        self.asked += 1;
        answer
    }

    /// Turns to the next path; false when there is none.
    pub fn turn(&mut self) -> bool {
        // What was not asked this time does not exist on this path.
        self.made.truncate(self.asked);
        self.asked = 0;
        while let Some((answer, count)) = self.made.pop() {
            if answer + 1 < count {
                self.made.push((answer + 1, count));
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_taken_once() {
        let (mut choices, mut paths) = (Choices::default(), Vec::new());
        loop {
            let first = choices.choose(3);
            let second = if first == 1 { choices.choose(2) } else { 9 };
            paths.push((first, second));
            if !choices.turn() {
                break;
            }
        }
        assert_eq!(paths, [(0, 9), (1, 0), (1, 1), (2, 9)]);
    }
}
