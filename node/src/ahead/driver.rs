// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carries out what the Plan says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::codec::Text;
use potluck_protocol::control::Answer;
use potluck_protocol::entry::{BlobOutput, Labels, Output};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::RECIPE;
use super::list::{List, MAX_BYTES};
use super::plan::{Action, Ahead, Event, Key};
use super::run::Run;
use crate::cache::{Cache, CacheError, Publication, Question};
use crate::drive::drive;
use crate::engine::{Engine, Known, output_bytes};
use crate::fetch::event::Space;
use crate::observe::span;

/// How long it may take to find out what a build will ask for: it goes on meanwhile.
const LEARNING: Duration = Duration::from_secs(1);
/// How long those may take who are asked for what it will ask for.
const BRINGING: Duration = Duration::from_secs(5);

/// Runs until nobody notes anything any more.
pub(crate) async fn run(engine: Arc<Engine>, (to, events): (mpsc::Sender<Event>, mpsc::Receiver<Event>)) {
    let mut bringing: BTreeMap<String, Vec<AbortHandle>> = BTreeMap::new();
    // Weak: the daemon's own end of the channel is what keeps this running.
    let to = to.downgrade();
    let tell = move |event| {
        let to = to.clone();
        async move {
            if let Some(to) = to.upgrade() {
                let _ = to.send(event).await;
            }
        }
    };
    drive(Ahead::default(), events, |action| match action {
        Action::Learn { build, project, plan } => {
            let (engine, tell) = (Arc::clone(&engine), tell.clone());
            span::spawn("learn", async move {
                let list = learn(&engine, project, plan).await;
                tell(Event::Learned { build, list }).await;
            });
        }
        Action::Bring { build, project, recipe, keys } => {
            let work = bring(Arc::clone(&engine), Space { project, recipe }, keys);
            bringing.entry(build).or_default().push(span::spawn("ahead", work).abort_handle());
        }
        Action::Cancel { build } => {
            bringing.remove(&build).into_iter().flatten().for_each(|work| work.abort());
        }
        Action::Look { build, pid } => {
            let tell = tell.clone();
            span::spawn("look at a build", async move {
                let run = u32::try_from(pid).map(|pid| Run { name: build.clone(), pid });
                let goes_on = span::blocking(move || run.is_ok_and(|run| run.goes_on())).await;
                if !goes_on {
                    tell(Event::Ended { build }).await;
                }
            });
        }
        Action::Keep { project, plan, before, list } => {
            let engine = Arc::clone(&engine);
            span::spawn("keep what was learned", async move {
                if let Err(error) = keep(&engine, (project, plan), before, list).await {
                    tracing::debug!(%error, "what a build asked for is not kept");
                }
            });
        }
    })
    .await;
}

fn recipe() -> Recipe {
    Recipe::new(RECIPE).expect("it is a valid name")
}

/// What builds of a kind ask for, if anybody knows.
async fn learn(engine: &Arc<Engine>, project: Project, plan: Key) -> Option<List> {
    let question = Question { project, recipe: recipe(), keys: vec![plan], deadline: LEARNING };
    let Ok(Some(Answer::Hit(Output::Blob(blob)))) = engine.lookup(question).await.map(|mut all| all.pop())
    else {
        return None;
    };
    if blob.size > MAX_BYTES as u64 {
        return None;
    }
    let mut stretches = engine.read(blob.digest, None).await.ok()?;
    let mut bytes = Vec::new();
    while let Some(stretch) = stretches.recv().await {
        bytes.extend_from_slice(&stretch.ok()?);
        if bytes.len() > MAX_BYTES {
            return None;
        }
    }
    List::decode(&bytes).ok()
}

async fn bring(engine: Arc<Engine>, space: Space, keys: Vec<Key>) {
    let action = |key: &Key| ActionId::derive(&space.project, &space.recipe, key, None).ok();
    let actions: Vec<_> = keys.iter().filter_map(action).collect();
    tracing::debug!(keys = actions.len(), "a build will ask for these");
    engine.bring_ahead(&Arc::new(space), &actions, BRINGING).await;
}

/// Keeps what of a list is in the cache, if that is news.
async fn keep(
    engine: &Arc<Engine>,
    (project, plan): (Project, Key),
    before: List,
    list: List,
) -> Result<(), CacheError> {
    let here = {
        let (engine, project) = (Arc::clone(engine), project.clone());
        span::blocking(move || here(&engine, &project, list)).await?
    };
    if here.steps.is_empty() || !here.is_news(&before) {
        return Ok(());
    }
    let (digest, size) = engine.write(here.encode().as_slice()).await?;
    let publication = Publication {
        project,
        recipe: recipe(),
        key: plan,
        output: Output::Blob(BlobOutput { digest, size }),
        labels: Labels { tool: Text::new("cargo"), ..Labels::default() },
        taints: Vec::new(),
    };
    let engine = Arc::clone(engine);
    span::blocking(move || engine.publish_as(publication, true)).await?;
    Ok(())
}

/// The units that are here, with their sizes. Others are kept as they were told: they may be with somebody else.
fn here(engine: &Engine, project: &Project, list: List) -> Result<List, CacheError> {
    let mut steps = Vec::with_capacity(list.steps.len());
    for mut step in list.steps {
        let Ok(action) = ActionId::derive(project, &step.recipe, &step.key, None) else { continue };
        let space = Space { project: project.clone(), recipe: step.recipe.clone() };
        match engine.known(&space, &action)? {
            Known::Here(output) | Known::Lacks { output, .. } => step.bytes = output_bytes(&output),
            _ if step.bytes > 0 => {}
            Known::Refused | Known::Nothing => continue,
        }
        steps.push(step);
    }
    Ok(List { steps })
}
