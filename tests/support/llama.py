"""A real inference server (llama.cpp's) over a model of random weights that is made on the spot: half a megabyte.

Run as a program, it prints its address and serves until its input ends.
"""

import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from tests.support.daemon import ROOT

WIDTH, INNER, HEADS, BLOCKS, WORDS = 64, 128, 4, 2, 264


@contextmanager
def llama_server():
    """Address of a server while it is needed."""
    command = [sys.executable, "-m", "tests.support.llama"]
    with tempfile.TemporaryFile() as log:
        life = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            url = life.stdout.readline().strip()
            if not url:
                log.seek(0)
                raise AssertionError(log.read().decode()[-2000:])
            yield url
        finally:
            life.stdin.close()
            try:
                life.wait(10)
            except subprocess.TimeoutExpired:
                life.kill()
                life.wait()
            life.stdout.close()


def write_model(path):
    """A llama of random weights whose words are bytes."""
    import gguf
    import numpy as np

    dice = np.random.default_rng(7)
    made = gguf.GGUFWriter(str(path), "llama")
    made.add_context_length(2048)
    made.add_embedding_length(WIDTH)
    made.add_block_count(BLOCKS)
    made.add_feed_forward_length(INNER)
    made.add_head_count(HEADS)
    made.add_head_count_kv(HEADS)
    made.add_layer_norm_rms_eps(1e-5)
    made.add_rope_dimension_count(WIDTH // HEADS)
    made.add_vocab_size(WORDS)
    made.add_file_type(gguf.LlamaFileType.ALL_F32)
    kinds = gguf.TokenType
    words = ["<unk>", "<s>", "</s>", *(f"<0x{k:02X}>" for k in range(256)), "\u2581", "a", "b", "c", "d"]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, *[kinds.NORMAL] * 5]
    made.add_tokenizer_model("llama")
    made.add_token_list(words)
    made.add_token_scores([0.0] * WORDS)
    made.add_token_types(types)
    made.add_bos_token_id(1)
    made.add_eos_token_id(2)
    made.add_unk_token_id(0)
    made.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")

    def tensor(name, *shape):
        made.add_tensor(name, dice.normal(0, 0.05, shape).astype(np.float32))

    def ones(name):
        made.add_tensor(name, np.ones(WIDTH, np.float32))

    tensor("token_embd.weight", WORDS, WIDTH)
    tensor("output.weight", WORDS, WIDTH)
    ones("output_norm.weight")
    for block in range(BLOCKS):
        for name in ("attn_norm", "ffn_norm"):
            ones(f"blk.{block}.{name}.weight")
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{block}.{name}.weight", WIDTH, WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            tensor(f"blk.{block}.{name}.weight", INNER, WIDTH)
        tensor(f"blk.{block}.ffn_down.weight", WIDTH, INNER)
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()


def main():
    import xllamacpp

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        write_model(path)
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.endpoint_metrics, params.warmup = 4096, 8, True, False
        params.cpuparams.n_threads = 1
        server = xllamacpp.Server(params)
        print(server.listening_address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
