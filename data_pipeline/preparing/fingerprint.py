"""What a prepared log depends on, as one short name: content, settings and schema version; not the path."""

import dataclasses
import hashlib
import json
from pathlib import Path

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.demo import DemoConfig
from seqsweep.data_pipeline.formats.columns import named_columns
from seqsweep.data_pipeline.formats.recognise import source_format
from seqsweep.data_pipeline.schema import SCHEMA_VERSION, Settings
from seqsweep.data_pipeline.store import hash_file


def preparation_settings(config: DataConfig) -> Settings:
    """Every setting but the path, with what "auto" stands for."""
    settings: Settings = config.model_dump(exclude={"path"})
    return {
        **settings,
        "format": source_format(config),
        "columns": dict(sorted(named_columns(config).items())),
    }


def hash_inputs(files: list[Path]) -> tuple[str, ...]:
    """Reads every byte of the input: a changed file must not pass for the old one."""
    return tuple(hash_file(file) for file in files)


def compute_fingerprint(config: DataConfig, inputs: tuple[str, ...]) -> str:
    """32 hexadecimal digits. inputs: see `hash_inputs`; none for the generated log."""
    generated = dataclasses.asdict(DemoConfig(seed=config.seed)) if not inputs else None
    content = {
        "schema_version": SCHEMA_VERSION,
        "settings": preparation_settings(config),
        "files": inputs,
        "generated": generated,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
