"""What makes a Gradio app one that strangers may use. Knows Gradio; nothing of models and of what the page shows.

settings    what the operator decides, from environment variables
blocks      `GuardedBlocks`: a gr.Blocks with everything below
inputs      every input checked, and files fetched, before a function sees it
fetching    files from web addresses and `data:` URLs, measured while they are read
queueing    the queue: places for each client, turns, and jobs that nobody listens to
storage     the folder of uploads and answers, kept below a limit
gate        limits on request bodies, routes that are closed, and who listens
agents      answers for agents (MCP) as JSON
"""
