"""`umay client`: verify an enclave, talk to it, serve a local OpenAI endpoint."""
