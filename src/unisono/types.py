"""The records that unisono takes and gives, for annotations and for those who compose a method by hand.

What is imported as its own name is exported.
"""

from unisono.benchmark_figures import Benchmark as Benchmark
from unisono.chat.messages import FunctionCall as FunctionCall
from unisono.chat.messages import Message as Message
from unisono.chat.messages import Prompt as Prompt
from unisono.chat.messages import ToolCall as ToolCall
from unisono.chat.tools import FunctionTool as FunctionTool
from unisono.chat.tools import Tool as Tool
from unisono.config.combine import Combine as Combine
from unisono.config.constraint import Constraint as Constraint
from unisono.config.ensemble import EnsembleSpec as EnsembleSpec
from unisono.config.gate import Gate as Gate
from unisono.config.member import MemberSpec as MemberSpec
from unisono.config.method import Method as Method
from unisono.config.sampling import Sampling as Sampling
from unisono.config.speculation import Speculation as Speculation
from unisono.diagnosis import Diagnosis as Diagnosis
from unisono.fitting.bounds import AtBound as AtBound
from unisono.fitting.fit import Fit as Fit
from unisono.fitting.fit import FittedMember as FittedMember
from unisono.fitting.fit import Gain as Gain
from unisono.records import Finish as Finish
from unisono.records import Generation as Generation
from unisono.records import Limits as Limits
from unisono.records import PieceScore as PieceScore
from unisono.records import Score as Score
from unisono.records import Seconds as Seconds
from unisono.records import Usage as Usage
from unisono.step_records import DraftRecord as DraftRecord
from unisono.step_records import GateReading as GateReading
from unisono.step_records import Standing as Standing
from unisono.step_records import StepRecord as StepRecord
from unisono.step_records import StepSeconds as StepSeconds
