"""The configuration: one YAML file, checked as a whole, with every problem named by file and line.

`load_config(path)` is the only door. The models below it carry the defaults, the descriptions and the examples from
which the sample config, the JSON schema and the reference page are generated.
"""

from scheduler.config.checks import is_simulated, secrets, start_of
from scheduler.config.errors import ConfigError, Problem
from scheduler.config.load import curves_of, load_config, shipped_curves
from scheduler.config.models import Config
from scheduler.config.pool import PoolConfig
from scheduler.config.program import ProgramConfig
from scheduler.config.runtime import Mode, Scope
from scheduler.config.site import SiteConfig
from scheduler.config.work import JobConfig, RecurringJobConfig

__all__ = [
    "Config",
    "ConfigError",
    "JobConfig",
    "Mode",
    "PoolConfig",
    "Problem",
    "ProgramConfig",
    "RecurringJobConfig",
    "Scope",
    "SiteConfig",
    "curves_of",
    "is_simulated",
    "load_config",
    "secrets",
    "shipped_curves",
    "start_of",
]
