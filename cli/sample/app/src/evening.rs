// SPDX-License-Identifier: MIT OR Apache-2.0
//! The plan: every course counted in a task of its own, and put together in the order of the meal.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::Context as _;
use futures::future;
use regex::Regex;
use sample_menu::{Course, Dish, Menu};
use serde::Serialize;
use tokio::sync::mpsc;
use tracing::{debug, instrument};

/// What there is to eat, course by course.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    title: String,
    guests: u32,
    courses: Vec<Table>,
    contains: BTreeSet<String>,
}

/// One course on its table.
#[derive(Debug, Serialize)]
struct Table {
    course: Course,
    dishes: Vec<(String, Dish)>,
    portions: u32,
    wanted: u32,
}

/// Counts the dishes that match, for that many guests.
#[instrument(skip(menu))]
pub(crate) async fn plan(menu: &Menu, like: &Regex, guests: u32) -> anyhow::Result<Plan> {
    let (warn, mut warnings) = mpsc::unbounded_channel();
    let tables = Course::ALL.iter().map(|&course| {
        let dishes = menu
            .course(course)
            .filter(|(name, _)| like.is_match(name))
            .map(|(name, dish)| (name.to_owned(), dish.clone()))
            .collect();
        tokio::spawn(lay(course, dishes, guests, warn.clone()))
    });
    let courses = future::try_join_all(tables).await.context("a table fell over")?;
    drop(warn);
    let mut contains = BTreeSet::new();
    while let Some(warning) = warnings.recv().await {
        contains.insert(warning);
    }
    Ok(Plan { title: menu.title.clone(), guests, courses, contains })
}

/// Counts one course, and tells what guests must be warned of.
async fn lay(
    course: Course,
    dishes: Vec<(String, Dish)>,
    guests: u32,
    warn: mpsc::UnboundedSender<String>,
) -> Table {
    let mut portions = 0_u32;
    for (name, dish) in &dishes {
        debug!(name, dish.portions, "laid");
        portions = portions.saturating_add(dish.portions);
        for what in &dish.contains {
            // Nobody listens once the plan has been given up.
            let _ = warn.send(what.clone());
        }
        tokio::task::yield_now().await;
    }
    Table { course, dishes, portions, wanted: course.each().saturating_mul(guests) }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {} guests", self.title, self.guests)?;
        for Table { course, dishes, portions, wanted } in &self.courses {
            let enough = if portions < wanted { ", too few" } else { "" };
            writeln!(f, "\n{}: {portions} portions of {wanted}{enough}", course.tag())?;
            for (name, dish) in dishes {
                writeln!(f, "  {:>3}  {name}, by {}", dish.portions, dish.cook)?;
            }
        }
        if !self.contains.is_empty() {
            let contains = self.contains.iter().map(String::as_str).collect::<Vec<_>>();
            writeln!(f, "\ncontains {}", contains.join(", "))?;
        }
        Ok(())
    }
}
