// SPDX-License-Identifier: MIT OR Apache-2.0
//! go's questions as the door's, and back.
//!
//! The key of `gocache@1` is the ActionID, and the output is one Blob, the body. The OutputID goes nowhere: it is the
//! SHA-256 of the body, so whoever has the body knows it, and whoever asks computes it anyway. So a hit is one round
//! trip, and builders who made the same bytes agree.

use std::time::Duration;

use potluck_protocol::action::{Project, Recipe};
use potluck_protocol::codec::Text;
use potluck_protocol::control::{Answer, Miss};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{BlobOutput, Labels, Output};

use super::line::MAX_BODY_BYTES;
use crate::cache::{Publication, Question};

/// Whose keys these are.
pub const RECIPE: &str = "gocache@1";

/// The Recipe.
pub fn recipe() -> Recipe {
    Recipe::new(RECIPE).expect("it is a valid name")
}

/// "What did this action give?"
pub fn question(project: &Project, action: &[u8], deadline: Duration) -> Question {
    questions(project, vec![action.to_vec()], deadline)
}

/// The same of several.
pub fn questions(project: &Project, actions: Vec<Vec<u8>>, deadline: Duration) -> Question {
    Question { project: project.clone(), recipe: recipe(), keys: actions, deadline }
}

/// What the door's answer means: the Blob and its size, or nothing.
///
/// # Errors
/// Why there is nothing.
pub fn found(answers: &[Answer]) -> Result<BlobOutput, NotFound> {
    match answers {
        [Answer::Hit(Output::Blob(blob))] if blob.size <= MAX_BODY_BYTES => Ok(blob.clone()),
        [Answer::Hit(_)] => Err(NotFound::Foreign),
        [Answer::Miss(miss)] => Err(NotFound::Miss(*miss)),
        _ => Err(NotFound::Unasked),
    }
}

/// Why a get is a miss, though the door answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// Nobody who is believed has it.
    #[error("{0:?}")]
    Miss(Miss),
    /// What was claimed is nothing that go makes.
    #[error("it is nothing that go makes")]
    Foreign,
    /// The door answered something else.
    #[error("the door answered another number of questions")]
    Unasked,
}

/// "This action gave that", and how long it took if that is known.
pub fn publication(
    project: &Project,
    action: Vec<u8>,
    (digest, size): (Digest, u64),
    cost: Option<Duration>,
) -> Publication {
    let cost_ms = cost.and_then(|cost| u64::try_from(cost.as_millis()).ok());
    Publication {
        project: project.clone(),
        recipe: recipe(),
        key: action,
        output: Output::Blob(BlobOutput { digest, size }),
        labels: Labels { tool: Text::new("go"), cost_ms, ..Labels::default() },
        taints: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use potluck_protocol::entry::TreeOutput;

    use super::*;

    #[test]
    fn what_was_published_is_found_and_nothing_else_is() {
        let project = Project::default();
        let blob = (Digest::of(b"x"), 1);
        let published = publication(&project, vec![7; 32], blob, Some(Duration::from_millis(1500)));
        assert_eq!(published.labels.cost_ms, Some(1500));
        let asked = question(&project, &[7; 32], Duration::from_secs(1));
        assert_eq!((&asked.recipe, &asked.keys), (&published.recipe, &vec![published.key.clone()]));
        let hit = found(&[Answer::Hit(published.output.clone())]).unwrap();
        assert_eq!((hit.digest, hit.size), blob);

        let tree = TreeOutput { digest: blob.0, size: 1, members: 1, total: 1 };
        let huge = BlobOutput { digest: blob.0, size: MAX_BODY_BYTES + 1 };
        for output in [Output::Tree(tree), Output::Blob(huge)] {
            assert_eq!(found(&[Answer::Hit(output)]), Err(NotFound::Foreign));
        }
        assert_eq!(found(&[Answer::Miss(Miss::Late)]), Err(NotFound::Miss(Miss::Late)));
        assert_eq!(found(&[]), Err(NotFound::Unasked));
    }
}
