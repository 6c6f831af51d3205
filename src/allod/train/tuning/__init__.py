"""What is learnt after pretraining: answers, by one's own model; a manner, by an adapter of another's.

examples.py   questions with answers, made by rule           chat_rows.py    examples as rows of tokens
sentences.py  sentences of prose                             lora.py         small matrices that learn
lora_text.py  the documents that an adapter learns from      lora_tokens.py  the imported model's tokenizer
"""
