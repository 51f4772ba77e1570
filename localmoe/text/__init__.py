"""Text to tokens and back: tokenizers, prompt formats, streamed text, and text that is safe to print."""
