"""The stages behind the verbs: each makes what it needs and lacks, and reuses what is valid, saying which."""
