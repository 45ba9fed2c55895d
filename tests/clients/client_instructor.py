import instructor
import openai
from wanted import KEY, MODEL, QUESTION, URL, Weather, check, done

found: dict[str, str] = {}
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS_STRICT):
    client = instructor.from_openai(openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0), mode=mode)
    messages = [{"role": "user", "content": QUESTION}]
    answer = client.chat.completions.create(
        model=MODEL, messages=messages, response_model=Weather, max_retries=0, max_tokens=80, temperature=0
    )
    check(isinstance(answer, Weather), f"{mode} gives another type", answer)
    found[mode.name] = answer.city
done("instructor", modes=found)
