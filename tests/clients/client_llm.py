from llm.default_plugins.openai_models import Chat
from wanted import KEY, MODEL, QUESTION, URL, Weather

model = Chat(MODEL, model_name=MODEL, api_base=URL, supports_schema=True)
whole = model.prompt(QUESTION, key=KEY, stream=False, temperature=0, max_tokens=40).text()
assert whole
assert model.prompt(QUESTION, key=KEY, temperature=0, max_tokens=40).text() == whole
formed = model.prompt(QUESTION, key=KEY, schema=Weather, stream=False, temperature=0, max_tokens=40).text()
assert Weather.model_validate_json(formed)
