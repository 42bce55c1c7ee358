"""The registered studies: values only. The first one is the default of a new environment."""

from pipeline.studies.ashare_daily import STUDY as _ASHARE_DAILY
from pipeline.studies.perp_minute import STUDY as _PERP_MINUTE

STUDIES = {study.name: study for study in (_ASHARE_DAILY, _PERP_MINUTE)}
