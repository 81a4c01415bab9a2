// Generated from the code by: orchestrator catalog --write

/** A CloudEvents 1.0 envelope. */
export interface Envelope<Type extends string, Version extends number, Data> {
  specversion: "1.0";
  id: string;
  source: string;
  type: Type;
  /** When it happened, in RFC 3339 form with a time zone. */
  time: string;
  datacontenttype?: "application/json";
  dataversion: Version;
  correlationid?: string;
  causationid?: string;
  data: Data;
}

/** A user requested a new account. It can be used after ACCOUNT_CREATION_COMPLETED. */ export type AccountCreated = {
  "user_id": string;
  /** Chosen by the client. An id that is already used is refused. */ "account_id": string;
  "name": string;
  "currency": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
  /** How far below zero the balance may go, in the currency's minor unit. */ "overdraft_limit"?: number;
  /** The first balance in the currency's minor unit. It may be negative within the overdraft limit. */ "opening_balance": number;
  "icon": string;
  "colour": string;
};

/** The account is open. */ export type AccountCreationCompleted = {
  "user_id": string;
  "account_id": string;
};

export type AccountCreationFailed_JsonValue = unknown;

export type AccountCreationFailed_UndoneStep = {
  "number": number;
  "operation": string;
  "compensation": string;
  "skipped"?: boolean;
};

/** The account was not created, and nothing of it is left. */ export type AccountCreationFailed = {
  /** The id of the triggering event. */ "event_id": string;
  /** The type of the triggering event. */ "event_type": string;
  /** The triggering event's fields, as it arrived. */ "event": Record<string, AccountCreationFailed_JsonValue>;
  /** The version of the triggering event's contract. */ "event_version"?: number;
  /** A stable code in the form `domain.reason`. */ "error_code": string;
  /** The reason, for a person. */ "message": string;
  /** The steps that were undone, in the order of their undo: the last step first. */ "undone": (AccountCreationFailed_UndoneStep)[];
  /** The refusal's details, if it has any; `details_as` reads them as a contract. */ "details"?: Record<string, AccountCreationFailed_JsonValue> | null;
};

export type AccountValueEditCompleted_Money = {
  "amount_minor": number;
  "currency": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
};

/** The account has the new balance. */ export type AccountValueEditCompleted = {
  "user_id": string;
  "account_id": string;
  /** The difference to the old balance; negative if the balance was reduced. */ "difference": AccountValueEditCompleted_Money;
};

export type AccountValueEditFailed_JsonValue = unknown;

export type AccountValueEditFailed_UndoneStep = {
  "number": number;
  "operation": string;
  "compensation": string;
  "skipped"?: boolean;
};

/** The balance is unchanged. */ export type AccountValueEditFailed = {
  /** The id of the triggering event. */ "event_id": string;
  /** The type of the triggering event. */ "event_type": string;
  /** The triggering event's fields, as it arrived. */ "event": Record<string, AccountValueEditFailed_JsonValue>;
  /** The version of the triggering event's contract. */ "event_version"?: number;
  /** A stable code in the form `domain.reason`. */ "error_code": string;
  /** The reason, for a person. */ "message": string;
  /** The steps that were undone, in the order of their undo: the last step first. */ "undone": (AccountValueEditFailed_UndoneStep)[];
  /** The refusal's details, if it has any; `details_as` reads them as a contract. */ "details"?: Record<string, AccountValueEditFailed_JsonValue> | null;
};

export type AccountValueEditRequested_Money = {
  "amount_minor": number;
  "currency": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
};

/** A user corrected the balance of an account. */ export type AccountValueEditRequested = {
  "user_id": string;
  "account_id": string;
  /** The new balance, in the account's currency. */ "value": AccountValueEditRequested_Money;
  "note"?: string;
};

/** The record was deleted, and its amount reversed in the account and the category. */ export type ActivityRecordRemovalCompleted = {
  "user_id": string;
  "record_id": string;
  /** True if the category was reset after the record, so that it no longer contained the amount. */ "was_reset_since": boolean;
};

export type ActivityRecordRemovalFailed_JsonValue = unknown;

export type ActivityRecordRemovalFailed_UndoneStep = {
  "number": number;
  "operation": string;
  "compensation": string;
  "skipped"?: boolean;
};

/** The record and its effects are unchanged. */ export type ActivityRecordRemovalFailed = {
  /** The id of the triggering event. */ "event_id": string;
  /** The type of the triggering event. */ "event_type": string;
  /** The triggering event's fields, as it arrived. */ "event": Record<string, ActivityRecordRemovalFailed_JsonValue>;
  /** The version of the triggering event's contract. */ "event_version"?: number;
  /** A stable code in the form `domain.reason`. */ "error_code": string;
  /** The reason, for a person. */ "message": string;
  /** The steps that were undone, in the order of their undo: the last step first. */ "undone": (ActivityRecordRemovalFailed_UndoneStep)[];
  /** The refusal's details, if it has any; `details_as` reads them as a contract. */ "details"?: Record<string, ActivityRecordRemovalFailed_JsonValue> | null;
};

/** A user requested to remove an income or an expense together with its effects. */ export type ActivityRecordRemovalRequested = {
  "user_id": string;
  /** The id of a record of the kind `category_value_change`. */ "record_id": string;
};

export type CategoryResetCompleted_BudgetType = "income" | "expense";

/** The categories were set to zero. */ export type CategoryResetCompleted = {
  "user_id": string;
  "budget_type": CategoryResetCompleted_BudgetType;
  /** The number of categories that were reset. */ "categories": number;
};

export type CategoryResetFailed_JsonValue = unknown;

export type CategoryResetFailed_UndoneStep = {
  "number": number;
  "operation": string;
  "compensation": string;
  "skipped"?: boolean;
};

/** The categories are unchanged. */ export type CategoryResetFailed = {
  /** The id of the triggering event. */ "event_id": string;
  /** The type of the triggering event. */ "event_type": string;
  /** The triggering event's fields, as it arrived. */ "event": Record<string, CategoryResetFailed_JsonValue>;
  /** The version of the triggering event's contract. */ "event_version"?: number;
  /** A stable code in the form `domain.reason`. */ "error_code": string;
  /** The reason, for a person. */ "message": string;
  /** The steps that were undone, in the order of their undo: the last step first. */ "undone": (CategoryResetFailed_UndoneStep)[];
  /** The refusal's details, if it has any; `details_as` reads them as a contract. */ "details"?: Record<string, CategoryResetFailed_JsonValue> | null;
};

export type CategoryResetRequested_BudgetType = "income" | "expense";

/** A user requested to set every category of one budget type to zero. */ export type CategoryResetRequested = {
  "user_id": string;
  "budget_type": CategoryResetRequested_BudgetType;
};

export type CategoryTransactionCompleted_BudgetType = "income" | "expense";

export type CategoryTransactionCompleted_Money = {
  "amount_minor": number;
  "currency": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
};

/** The transaction is in the account, the category and the activity log. */ export type CategoryTransactionCompleted = {
  "user_id": string;
  "category_id": string;
  "account_id": string;
  "budget_type": CategoryTransactionCompleted_BudgetType;
  /** The amount in the account's currency. */ "amount": CategoryTransactionCompleted_Money;
  /** The amount in the category's currency. */ "converted": CategoryTransactionCompleted_Money;
  /** The rate that was used; None if both currencies are the same. */ "rate": string | null;
};

export type CategoryTransactionFailed_JsonValue = unknown;

export type CategoryTransactionFailed_UndoneStep = {
  "number": number;
  "operation": string;
  "compensation": string;
  "skipped"?: boolean;
};

/** The transaction was not recorded. */ export type CategoryTransactionFailed = {
  /** The id of the triggering event. */ "event_id": string;
  /** The type of the triggering event. */ "event_type": string;
  /** The triggering event's fields, as it arrived. */ "event": Record<string, CategoryTransactionFailed_JsonValue>;
  /** The version of the triggering event's contract. */ "event_version"?: number;
  /** A stable code in the form `domain.reason`. */ "error_code": string;
  /** The reason, for a person. */ "message": string;
  /** The steps that were undone, in the order of their undo: the last step first. */ "undone": (CategoryTransactionFailed_UndoneStep)[];
  /** The refusal's details, if it has any; `details_as` reads them as a contract. */ "details"?: Record<string, CategoryTransactionFailed_JsonValue> | null;
};

export type CategoryTransactionRequested_Money = {
  "amount_minor": number;
  "currency": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
};

/** A user earned or spent money. The category determines which. */ export type CategoryTransactionRequested = {
  "user_id": string;
  "category_id": string;
  "account_id": string;
  /** The amount in the account's currency. */ "amount": CategoryTransactionRequested_Money;
  "note"?: string;
};

/** The display currency was changed, and the values of all categories were converted to it. */ export type CurrencyChangeCompleted = {
  "user_id": string;
  "before": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
  "currency": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
  /** Units of the new currency for one unit of the old one. */ "rate": string;
};

export type CurrencyChangeFailed_JsonValue = unknown;

export type CurrencyChangeFailed_UndoneStep = {
  "number": number;
  "operation": string;
  "compensation": string;
  "skipped"?: boolean;
};

/** The display currency is unchanged. */ export type CurrencyChangeFailed = {
  /** The id of the triggering event. */ "event_id": string;
  /** The type of the triggering event. */ "event_type": string;
  /** The triggering event's fields, as it arrived. */ "event": Record<string, CurrencyChangeFailed_JsonValue>;
  /** The version of the triggering event's contract. */ "event_version"?: number;
  /** A stable code in the form `domain.reason`. */ "error_code": string;
  /** The reason, for a person. */ "message": string;
  /** The steps that were undone, in the order of their undo: the last step first. */ "undone": (CurrencyChangeFailed_UndoneStep)[];
  /** The refusal's details, if it has any; `details_as` reads them as a contract. */ "details"?: Record<string, CurrencyChangeFailed_JsonValue> | null;
};

/** A user requested to see categories in another currency. */ export type CurrencyChangeRequested = {
  "user_id": string;
  "currency": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
};

export type MoneyTransferCompleted_Money = {
  "amount_minor": number;
  "currency": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
};

/** The money was transferred. */ export type MoneyTransferCompleted = {
  "user_id": string;
  "from_account_id": string;
  "to_account_id": string;
  /** The amount withdrawn from the source. */ "left": MoneyTransferCompleted_Money;
  /** The amount deposited into the target. */ "arrived": MoneyTransferCompleted_Money;
  /** The rate that was used; None if the request named both amounts, or both accounts have the same currency. */ "rate"?: string | null;
};

export type MoneyTransferFailed_JsonValue = unknown;

export type MoneyTransferFailed_UndoneStep = {
  "number": number;
  "operation": string;
  "compensation": string;
  "skipped"?: boolean;
};

/** No money was transferred. */ export type MoneyTransferFailed = {
  /** The id of the triggering event. */ "event_id": string;
  /** The type of the triggering event. */ "event_type": string;
  /** The triggering event's fields, as it arrived. */ "event": Record<string, MoneyTransferFailed_JsonValue>;
  /** The version of the triggering event's contract. */ "event_version"?: number;
  /** A stable code in the form `domain.reason`. */ "error_code": string;
  /** The reason, for a person. */ "message": string;
  /** The steps that were undone, in the order of their undo: the last step first. */ "undone": (MoneyTransferFailed_UndoneStep)[];
  /** The refusal's details, if it has any; `details_as` reads them as a contract. */ "details"?: Record<string, MoneyTransferFailed_JsonValue> | null;
};

export type MoneyTransferRequested_Money = {
  "amount_minor": number;
  "currency": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
};

/** A user requested to move money between two of their accounts. */ export type MoneyTransferRequested = {
  "user_id": string;
  "from_account_id": string;
  "to_account_id": string;
  /** The amount to withdraw, in the source's currency. */ "amount": MoneyTransferRequested_Money;
  /** The amount to deposit, in the target's currency. Without it, the amount is converted at the stored rate. */ "arriving"?: MoneyTransferRequested_Money | null;
};

/** The month was saved. */ export type MonthResetCompleted = {
  "user_id": string;
  "month": string;
  /** False if this month or a later one had already been reset, so that nothing was done. */ "was_due": boolean;
};

export type MonthResetFailed_JsonValue = unknown;

export type MonthResetFailed_UndoneStep = {
  "number": number;
  "operation": string;
  "compensation": string;
  "skipped"?: boolean;
};

/** The categories are unchanged, and the month can still be reset. */ export type MonthResetFailed = {
  /** The id of the triggering event. */ "event_id": string;
  /** The type of the triggering event. */ "event_type": string;
  /** The triggering event's fields, as it arrived. */ "event": Record<string, MonthResetFailed_JsonValue>;
  /** The version of the triggering event's contract. */ "event_version"?: number;
  /** A stable code in the form `domain.reason`. */ "error_code": string;
  /** The reason, for a person. */ "message": string;
  /** The steps that were undone, in the order of their undo: the last step first. */ "undone": (MonthResetFailed_UndoneStep)[];
  /** The refusal's details, if it has any; `details_as` reads them as a contract. */ "details"?: Record<string, MonthResetFailed_JsonValue> | null;
};

/** A month has ended: its categories are to be saved and set to zero. A schedule or a person requests it. A second request for the same month changes nothing. */ export type MonthResetRequested = {
  "user_id": string;
  /** The month that has ended. */ "month": string;
};

/** Every event. */
export type Event =
  | Envelope<"ACCOUNT_CREATED", 1, AccountCreated>
  | Envelope<"ACCOUNT_CREATION_COMPLETED", 1, AccountCreationCompleted>
  | Envelope<"ACCOUNT_CREATION_FAILED", 1, AccountCreationFailed>
  | Envelope<"ACCOUNT_VALUE_EDIT_COMPLETED", 1, AccountValueEditCompleted>
  | Envelope<"ACCOUNT_VALUE_EDIT_FAILED", 1, AccountValueEditFailed>
  | Envelope<"ACCOUNT_VALUE_EDIT_REQUESTED", 1, AccountValueEditRequested>
  | Envelope<"ACTIVITY_RECORD_REMOVAL_COMPLETED", 1, ActivityRecordRemovalCompleted>
  | Envelope<"ACTIVITY_RECORD_REMOVAL_FAILED", 1, ActivityRecordRemovalFailed>
  | Envelope<"ACTIVITY_RECORD_REMOVAL_REQUESTED", 1, ActivityRecordRemovalRequested>
  | Envelope<"CATEGORY_RESET_COMPLETED", 1, CategoryResetCompleted>
  | Envelope<"CATEGORY_RESET_FAILED", 1, CategoryResetFailed>
  | Envelope<"CATEGORY_RESET_REQUESTED", 1, CategoryResetRequested>
  | Envelope<"CATEGORY_TRANSACTION_COMPLETED", 1, CategoryTransactionCompleted>
  | Envelope<"CATEGORY_TRANSACTION_FAILED", 1, CategoryTransactionFailed>
  | Envelope<"CATEGORY_TRANSACTION_REQUESTED", 1, CategoryTransactionRequested>
  | Envelope<"CURRENCY_CHANGE_COMPLETED", 1, CurrencyChangeCompleted>
  | Envelope<"CURRENCY_CHANGE_FAILED", 1, CurrencyChangeFailed>
  | Envelope<"CURRENCY_CHANGE_REQUESTED", 1, CurrencyChangeRequested>
  | Envelope<"MONEY_TRANSFER_COMPLETED", 1, MoneyTransferCompleted>
  | Envelope<"MONEY_TRANSFER_FAILED", 1, MoneyTransferFailed>
  | Envelope<"MONEY_TRANSFER_REQUESTED", 1, MoneyTransferRequested>
  | Envelope<"MONTH_RESET_COMPLETED", 1, MonthResetCompleted>
  | Envelope<"MONTH_RESET_FAILED", 1, MonthResetFailed>
  | Envelope<"MONTH_RESET_REQUESTED", 1, MonthResetRequested>;
