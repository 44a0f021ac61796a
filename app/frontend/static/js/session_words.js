// What a session says, in words.

import { number, percent } from "./format.js";
import { t } from "./i18n.js";

/** Why a frame does not count. */
export const REASONS = {
  unreadable: t("The frame could not be read."),
  no_face: t("No face can be seen; look into the camera."),
  several_faces: t("Several faces can be seen; only one person may be in front of the camera."),
  too_small: t("The face is too small; come closer."),
  blurred: t("The face is blurred; hold still."),
  dark: t("The face is too dark; turn towards the light."),
  bright: t("The face is too bright; turn away from the light."),
  turned_away: t("The face is turned away; look into the camera."),
  unlike: t("The face cannot be told from another's with certainty; look into the camera."),
  another_person: t("This is another person's face."),
  too_similar: t("Nothing new can be seen; move the head a little."),
  pool_busy: t("The service is busy; wait a moment."),
  worker_timeout: t("The service is busy; wait a moment."),
  database_unavailable: t("The database is away; wait a moment."),
};

const ENDINGS = {
  several_persons: t("Faces of several persons were seen, and nobody was enrolled."),
  another_person: t("It is another person's face."),
  too_few_frames: t("There were too few good frames."),
  duplicate: t("All of these pictures were enrolled before."),
  not_alike: t("The face is not alike enough."),
  not_valid: t("The person is not valid now."),
  no_templates: t("The person has no face to compare with."),
};

/** Why the service closes a stream for good. */
export const CLOSINGS = {
  4001: t("The session goes on elsewhere: another page has taken it over."),
  4003: t("The session has expired. Start again."),
  4004: t("The session is over: it was ended elsewhere, or its person or its key is gone."),
};

/** A result as `{ tone, title, why, facts }`; `person` is what they were called when the session began. */
export function inWords(result, person) {
  const good = result.outcome === "enrolled" || result.outcome === "verified";
  const title = {
    enrolled: t("{person} is enrolled.", { person: result.person ?? person }),
    not_enrolled: t("{person} was not enrolled.", { person }),
    verified: t("This is {person}.", { person: result.person ?? person }),
    not_verified: t("Not confirmed to be {person}.", { person }),
    cancelled: t("Stopped; nothing was decided."),
  }[result.outcome] ?? t("The session has ended.");
  const tone = good ? "good" : result.outcome === "cancelled" ? "" : "bad";
  return { tone, title, why: good ? null : ENDINGS[result.reason], facts: factsOf(result, good) };
}

function factsOf(result, good) {
  const facts = [];
  if (result.outcome === "enrolled") {
    facts.push([t("New templates"), number(result.templates)]);
    if (result.duplicates) facts.push([t("Enrolled before"), number(result.duplicates)]);
  }
  if (typeof result.distance === "number") {
    facts.push([t("Distance"), number(result.distance, 4)], [t("Threshold"), number(result.threshold, 4)]);
  }
  if (result.good_frames !== undefined) facts.push([t("Good frames"), number(result.good_frames)]);
  if (good && result.confidence !== undefined) facts.push([t("Confidence"), percent(result.confidence)]);
  return facts;
}
