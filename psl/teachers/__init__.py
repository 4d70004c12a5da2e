"""Whoever can give probabilities for a chunk: our runs, and other people's models.

``load_teacher`` makes a Teacher of one or several TeacherConfigs. One module a kind;
each gives a Member, which knows neither the audio's rate nor its class order.
"""

from psl.teachers.config import TeacherConfig, TeacherList
from psl.teachers.load import Teacher, load_teacher

__all__ = ["Teacher", "TeacherConfig", "TeacherList", "load_teacher"]
