//! Lists in pages: at most `limit` items, and a cursor that leads to the next ones.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;

/// Items of a page that names no limit.
const LIMIT_DEFAULT: usize = 50;
/// Items of a page.
pub(super) const LIMIT_MAX: usize = 200;
/// Bytes of a cursor.
const CURSOR_MAX: usize = 400;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The items.
    pub(super) items: Vec<T>,
    /// Send it as `cursor` to get the next page; `null` at the end.
    pub(super) next_cursor: Option<String>,
}

/// Which page of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageParameters {
    /// Items of the page, 1 to 200; 50 without it.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    limit: Option<String>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// The same, checked.
#[derive(Debug, Clone)]
pub(super) struct Position {
    pub(super) limit: usize,
    /// The key of the last item of the page before.
    pub(super) after: Option<String>,
}

impl PageParameters {
    pub(super) fn position(&self) -> Result<Position, Problem> {
        Position::new(self.limit.as_deref(), self.cursor.as_deref())
    }
}

impl Position {
    /// Checks the parameters `limit` and `cursor`.
    ///
    /// # Errors
    ///
    /// If one can't be used.
    pub(super) fn new(limit: Option<&str>, cursor: Option<&str>) -> Result<Self, Problem> {
        let limit = match limit {
            None => LIMIT_DEFAULT,
            Some(text) => {
                let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                limit.ok_or_else(|| Problem::parameter("limit", "give a number from 1 to 200."))?
            }
        };
        let invalid = || Problem::parameter("cursor", "send the `next_cursor` of the page before, or none.");
        let after = match cursor {
            None => None,
            Some(text) if text.len() > CURSOR_MAX => return Err(invalid()),
            Some(text) => {
                let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid())?;
                let key = String::from_utf8(bytes).map_err(|_| invalid())?;
                let is_plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_graphic());
                Some(Some(key).filter(|_| is_plain).ok_or_else(invalid)?)
            }
        };
        Ok(Self { limit, after })
    }

    /// The page of a list whose keys ascend.
    pub(super) fn page<I, T>(
        &self,
        mut items: Vec<I>,
        key: impl Fn(&I) -> String,
        into: impl Fn(I) -> T,
    ) -> Page<T> {
        items.retain(|item| self.after.as_ref().is_none_or(|after| key(item) > *after));
        self.cut(items, key, into)
    }

    /// The page of a list whose keys descend: the newest first.
    pub(super) fn page_newest_first<I, T>(
        &self,
        mut items: Vec<I>,
        key: impl Fn(&I) -> String,
        into: impl Fn(I) -> T,
    ) -> Page<T> {
        items.retain(|item| self.after.as_ref().is_none_or(|after| key(item) < *after));
        self.cut(items, key, into)
    }

    fn cut<I, T>(&self, mut items: Vec<I>, key: impl Fn(&I) -> String, into: impl Fn(I) -> T) -> Page<T> {
        let has_more = items.len() > self.limit;
        items.truncate(self.limit);
        let next_cursor = items.last().filter(|_| has_more).map(|last| cursor(&key(last)));
        Page { items: items.into_iter().map(into).collect(), next_cursor }
    }
}

/// The cursor behind an item.
pub(super) fn cursor(key: &str) -> String {
    URL_SAFE_NO_PAD.encode(key)
}

/// A key that sorts by time, then by id.
pub(super) fn key_of(at: store::Timestamp, id: &str) -> String {
    format!("{:019}-{id}", at.as_millis().max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_without_gaps() {
        for descends in [false, true] {
            let mut all: Vec<u32> = (0..10).collect();
            if descends {
                all.reverse();
            }
            let (mut seen, mut after) = (Vec::new(), None);
            for _ in 0..4 {
                let position = Position::new(Some("3"), after.as_deref()).unwrap();
                let key = |n: &u32| format!("{n:02}");
                let page = if descends {
                    position.page_newest_first(all.clone(), key, |n| n)
                } else {
                    position.page(all.clone(), key, |n| n)
                };
                seen.extend(page.items);
                after = page.next_cursor;
            }
            assert_eq!((seen, after), (all, None));
        }
        let page = Position::new(None, None).unwrap().page(Vec::<u32>::new(), u32::to_string, |n| n);
        assert!(page.items.is_empty() && page.next_cursor.is_none());
    }

    #[test]
    fn limits_and_cursors_are_checked() {
        for limit in ["0", "201", "-1", "x", "", "99999999999999999999", "1.5"] {
            assert!(Position::new(Some(limit), None).is_err(), "{limit}");
        }
        let nul = cursor("a\0b");
        for bad in ["", "*", "é", &nul, &"A".repeat(401)] {
            assert!(Position::new(None, Some(bad)).is_err(), "{bad}");
        }
        assert_eq!(Position::new(Some("200"), Some(&cursor("a-1"))).unwrap().after.as_deref(), Some("a-1"));
    }
}
