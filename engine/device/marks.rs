//! Marks that are out: a slab that hands out numbers and takes them back.

use super::Mark;

/// What each mark that is out stands for.
#[derive(Debug)]
pub(crate) struct Marks<T> {
    out: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Marks<T> {
    fn default() -> Marks<T> {
        Marks { out: Vec::new(), free: Vec::new() }
    }
}

impl<T> Marks<T> {
    /// Hands out a mark.
    pub(crate) fn put(&mut self, what: T) -> Mark {
        let number = self.free.pop().unwrap_or_else(|| {
            self.out.push(None);
            self.out.len() as u32 - 1
        });
        self.out[number as usize] = Some(what);
        Mark(number)
    }

    /// What a mark stands for.
    ///
    /// # Panics
    /// If it was taken back already.
    pub(crate) fn get(&self, mark: Mark) -> &T {
        self.out[mark.0 as usize].as_ref().unwrap_or_else(|| panic!("{mark:?} is not out"))
    }

    /// Takes a mark back.
    pub(crate) fn take(&mut self, mark: Mark) -> T {
        let what = self.out[mark.0 as usize].take().unwrap_or_else(|| panic!("{mark:?} is not out"));
        self.free.push(mark.0);
        what
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let mut marks = Marks::default();
        let (a, b) = (marks.put("a"), marks.put("b"));
        assert_eq!((*marks.get(a), marks.take(b), marks.take(a)), ("a", "b", "a"));
        let again = [marks.put("c"), marks.put("d")];
        assert!(again.contains(&a) && again.contains(&b), "two marks are ever out: two numbers");
    }

    #[test]
    #[should_panic(expected = "is not out")]
    fn a_mark_is_taken_back_once() {
        let mut marks = Marks::default();
        let mark = marks.put(());
        marks.take(mark);
        marks.take(mark);
    }
}
