"""scores and labels -> AUROC with intervals. Pure: data frames in, data frames out."""
