"""Files: pipeline folders, safetensors headers, folders that appear whole."""
