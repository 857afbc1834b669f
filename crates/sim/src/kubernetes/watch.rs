//! The watches that are open, and what each of them hears.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::call::{Call, Wants};
use super::resource::Endpoint;
use super::selector::Selector;
use super::show;
use super::status::{Failure, Fault};
use super::store::{Change, Store, within};

/// How long a watch lasts whose caller does not say it.
const LASTS: Duration = Duration::from_mins(30);
/// So long before its end a watch gets a bookmark.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);

/// All watches that are open.
#[derive(Default)]
pub(super) struct Watches(Vec<Watch>);

struct Watch {
    endpoint: Endpoint,
    /// What the keys of its objects begin with.
    prefix: String,
    /// The one object that it is about; empty: many.
    name: String,
    selector: Selector,
    wants: Wants,
    events: UnboundedSender<Bytes>,
    ends: SystemTime,
    /// When it gets a bookmark; `None`: never, or it has had it.
    bookmark: Option<SystemTime>,
}

/// What a watch hears of a change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Added,
    Modified,
    Deleted,
    /// Deleted as far as this watch goes: its selector does not fit any more.
    Left,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted | Self::Left => "DELETED",
        }
    }
}

impl Watches {
    /// Opens a watch.
    pub(super) fn open(
        &mut self,
        now: SystemTime,
        call: &Call,
        store: &Store,
    ) -> Result<UnboundedReceiver<Bytes>, Failure> {
        refuse_bad_options(call)?;
        let options = &call.options;
        let asked = super::list::revision(&options.resource_version)?;
        let (events, receiver) = mpsc::unbounded_channel();
        let ends = now + options.timeout_seconds.map_or(LASTS, Duration::from_secs);
        let watch = Watch {
            endpoint: call.endpoint,
            prefix: call
                .namespace
                .map(|namespace| format!("{namespace}/"))
                .unwrap_or_default(),
            name: call.name.to_owned(),
            selector: Selector::read(call.endpoint, options)?,
            wants: call.wants,
            events,
            ends,
            bookmark: options
                .bookmarks
                .then(|| ends.checked_sub(BOOKMARK_BEFORE_END).unwrap_or(ends)),
        };
        match options.send_initial_events {
            Some(true) => watch.begin_with_all(store, options.bookmarks),
            None if asked == 0 => watch.begin_with_all(store, false),
            Some(false) if asked == 0 => {}
            _ if asked < store.compacted() => {
                watch.say(show::error(&Failure::too_old(asked, store.compacted())));
                return Ok(receiver);
            }
            _ => {
                for change in store.since(call.resource(), asked) {
                    watch.hear(change, &mut Vec::new());
                }
            }
        }
        self.0.push(watch);
        Ok(receiver)
    }

    /// Tells all watches of a change.
    pub(super) fn tell(&self, change: &Change) {
        let mut lines = Vec::new();
        for watch in &self.0 {
            if watch.endpoint.resource == change.resource {
                watch.hear(change, &mut lines);
            }
        }
    }

    /// Sends the bookmarks that are due, and ends the watches whose time is over.
    pub(super) fn tick(&mut self, now: SystemTime, revision: u64) {
        for watch in &mut self.0 {
            if watch.bookmark.is_some_and(|at| at <= now) {
                watch.bookmark = None;
                watch.say(show::bookmark(watch.endpoint, watch.wants, revision, false));
            }
        }
        self.0
            .retain(|watch| now < watch.ends && !watch.events.is_closed());
    }

    /// When there is something to do by the clock; `None`: never.
    pub(super) fn next(&self) -> Option<SystemTime> {
        let due = self.0.iter().map(|watch| watch.bookmark.unwrap_or(watch.ends));
        due.min()
    }

    /// How many are open to this endpoint's resource, or to any.
    pub(super) fn count(&self, resource: Option<super::Resource>) -> usize {
        let counts = |watch: &&Watch| {
            !watch.events.is_closed() && resource.is_none_or(|resource| watch.endpoint.resource == resource)
        };
        self.0.iter().filter(counts).count()
    }

    /// Ends all of them.
    pub(super) fn cut(&mut self) {
        self.0.clear();
    }
}

/// The rules for a watch that begins with what exists.
fn refuse_bad_options(call: &Call) -> Result<(), Failure> {
    let matching = call.options.resource_version_match.as_str();
    let why = match call.options.send_initial_events {
        Some(_) if matching != "NotOlderThan" => {
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        }
        None if !matching.is_empty() => {
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        }
        _ => return Ok(()),
    };
    let fault = Fault::forbidden("resourceVersionMatch", why);
    Err(Failure::invalid_kind("meta.k8s.io", "ListOptions", "", &[fault]))
}

impl Watch {
    fn begin_with_all(&self, store: &Store, is_marked: bool) {
        for (key, object) in within(store.objects(self.endpoint.resource), None, &self.prefix) {
            if !key.starts_with(&self.prefix) {
                break;
            }
            if self.is_about(key) && self.selector.fits(object) {
                self.say(show::line("ADDED", self.endpoint, self.wants, object));
            }
        }
        if is_marked {
            self.say(show::bookmark(self.endpoint, self.wants, store.revision(), true));
        }
    }

    fn is_about(&self, key: &str) -> bool {
        let name = key.strip_prefix(self.prefix.as_str());
        name.is_some_and(|name| self.name.is_empty() || self.name == name)
    }

    /// `lines`: what others were told of the same change.
    fn hear(&self, change: &Change, lines: &mut Vec<(Kind, Endpoint, Wants, Bytes)>) {
        if !self.is_about(&change.key) {
            return;
        }
        let before = change
            .before
            .as_deref()
            .filter(|before| self.selector.fits(before));
        let fits = !change.is_deletion && self.selector.fits(&change.after);
        let kind = match (before, fits) {
            (None, false) => return,
            (None, true) => Kind::Added,
            (Some(_), true) => Kind::Modified,
            (Some(_), false) if change.is_deletion => Kind::Deleted,
            (Some(_), false) => Kind::Left,
        };
        let told = lines
            .iter()
            .find(|(known, endpoint, wants, _)| {
                (*known, *endpoint, *wants) == (kind, self.endpoint, self.wants)
            })
            .map(|(_, _, _, line)| line.clone());
        let line = told.unwrap_or_else(|| {
            let line = match (kind, before) {
                (Kind::Left, Some(before)) => {
                    // It shows the object as it was when it was last in sight.
                    let mut last: Value = before.clone();
                    last["metadata"]["resourceVersion"] = change.revision.to_string().into();
                    show::line(kind.word(), self.endpoint, self.wants, &last)
                }
                _ => show::line(kind.word(), self.endpoint, self.wants, &change.after),
            };
            lines.push((kind, self.endpoint, self.wants, line.clone()));
            line
        });
        self.say(line);
    }

    fn say(&self, line: Bytes) {
        // Nobody reads a watch that its client has dropped; the next tick removes it.
        let _ = self.events.send(line);
    }
}
