"""KeyMyna, reproduced: masked contrastive pre-training for music audio key detection."""

__version__ = "0.1.0"
