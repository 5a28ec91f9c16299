from __future__ import annotations

from ..forms import PortalForm, RadioChoiceField, Required
from .topics import TOPIC_NAMES, Topic, Way


class WaysForm(PortalForm):
    """One choice for each topic; a view takes away those that do not concern the person."""

    booking = RadioChoiceField(TOPIC_NAMES[Topic.BOOKING], [Required()])
    request = RadioChoiceField(TOPIC_NAMES[Topic.REQUEST], [Required()])
    term = RadioChoiceField(TOPIC_NAMES[Topic.TERM], [Required()])
    money = RadioChoiceField(TOPIC_NAMES[Topic.MONEY], [Required()])
    office = RadioChoiceField(TOPIC_NAMES[Topic.OFFICE], [Required()])

    def topics(self) -> list[Topic]:
        return [topic for topic in TOPIC_NAMES if topic.value in self._fields]

    def ways(self) -> dict[Topic, Way]:
        return {topic: Way(self[topic.value].data) for topic in self.topics()}
