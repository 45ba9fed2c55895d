"""The records that unisono takes and gives, for annotations and for those who compose a method by hand."""

from unisono.benchmark import Benchmark
from unisono.chat.messages import FunctionCall, FunctionTool, Message, Prompt, Tool, ToolCall
from unisono.config.combine import Combine
from unisono.config.constraint import Constraint
from unisono.config.ensemble import EnsembleSpec
from unisono.config.gate import Gate
from unisono.config.member import MemberSpec
from unisono.config.method import Method, Speculation
from unisono.config.sampling import Sampling
from unisono.diagnosis import Diagnosis
from unisono.records import (
    DraftRecord,
    Finish,
    GateReading,
    Generation,
    Limits,
    PieceScore,
    Score,
    Seconds,
    StepRecord,
    StepSeconds,
    Usage,
)

__all__ = [
    "Benchmark",
    "Combine",
    "Constraint",
    "Diagnosis",
    "DraftRecord",
    "EnsembleSpec",
    "Finish",
    "FunctionCall",
    "FunctionTool",
    "Gate",
    "GateReading",
    "Generation",
    "Limits",
    "MemberSpec",
    "Message",
    "Method",
    "PieceScore",
    "Prompt",
    "Sampling",
    "Score",
    "Seconds",
    "Speculation",
    "StepRecord",
    "StepSeconds",
    "Tool",
    "ToolCall",
    "Usage",
]
